//! Where the hub and its cache are.

use std::path::PathBuf;

use hf_hub::Cache;

use crate::Endpoints;
use crate::secret::{BadSecret, Secret};

/// Where the hub and its cache are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The hub's address, with the token.
    pub endpoints: Endpoints,
    /// The cache: `HF_HUB_CACHE`, or `hub` below `HF_HOME`.
    pub cache: PathBuf,
    /// Whether the network is not to be used.
    pub offline: bool,
}

impl Settings {
    /// From variables of an environment, as the hub's Python library reads
    /// them: `HF_ENDPOINT`, `HF_TOKEN` or else the file `token` that `hf auth login`
    /// writes into `HF_HOME`, `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`,
    /// `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`.
    ///
    /// # Errors
    /// When the token is none that can be sent.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<String>) -> Result<Settings, BadSecret> {
        let var = |name: &str| var(name).filter(|value| !value.trim().is_empty());
        let home = var("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let user = || PathBuf::from(var("HOME").unwrap_or_else(|| "/".into())).join(".cache");
            var("XDG_CACHE_HOME").map_or_else(user, PathBuf::from).join("huggingface")
        });
        let cache = var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let token = match var("HF_TOKEN") {
            Some(token) => Secret::optional(Some(&token), "HF_TOKEN")?,
            None => Secret::optional(Cache::new(home.join("hub")).token().as_deref(), "HF_HOME/token")?,
        };
        let mut endpoints = Endpoints { token, ..Endpoints::default() };
        if let Some(hub) = var("HF_ENDPOINT") {
            endpoints.hub = hub;
        }
        let is_on = |name| var(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().trim()));
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(is_on);
        Ok(Settings { endpoints, cache, offline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> Settings {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Settings::from_vars(&var).unwrap()
    }

    #[test]
    fn variables_are_those_of_the_python_library() {
        let plain = of(&[("HOME", "/nowhere")]);
        assert_eq!(plain.cache, PathBuf::from("/nowhere/.cache/huggingface/hub"));
        assert_eq!((plain.endpoints, plain.offline), (Endpoints::default(), false));
        assert_eq!(of(&[("XDG_CACHE_HOME", "/x")]).cache, PathBuf::from("/x/huggingface/hub"));
        let both =
            of(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c"), ("HF_HUB_OFFLINE", "0"), ("HF_ENDPOINT", "http://m")]);
        assert_eq!((both.cache, both.offline, both.endpoints.hub.as_str()), ("/c".into(), false, "http://m"));
        assert!(of(&[("HF_HUB_OFFLINE", "YES")]).offline && of(&[("TRANSFORMERS_OFFLINE", "1")]).offline);

        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let dir = home.path().to_str().unwrap();
        let token = |vars: &[(&str, &str)]| of(vars).endpoints.token;
        let secret = |text| Secret::new(text, "t").ok();
        assert_eq!(token(&[("HF_HOME", dir)]), secret("hf_file"));
        assert_eq!(token(&[("HF_HOME", dir), ("HF_TOKEN", "hf_own")]), secret("hf_own"));
        assert_eq!(token(&[("HOME", "/nowhere"), ("HF_TOKEN", " ")]), None);
    }
}
