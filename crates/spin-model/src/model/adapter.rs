//! A model with an adapter: made, read, written, merged.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::CausalLm;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::lora::{self, LoraConfig};

impl CausalLm {
    /// The same model with a fresh adapter, which computes nothing yet and is
    /// all that training changes. A tensor of the adapter depends on the seed
    /// and its name alone.
    ///
    /// # Errors
    ///
    /// If the settings make no sense or name a projection the model lacks.
    pub fn with_new_adapter(&self, config: &LoraConfig, seed: u64) -> Result<Self> {
        let error = |message| Error::Config { origin: "the adapter's settings".to_owned(), message };
        config.check().map_err(error)?;
        self.with_adapter(config.clone(), &lora::Source::Seed(seed))
    }

    /// The same model with an adapter read from a directory in PEFT's format.
    /// `base` is the identity of this model's weights, compared with the one
    /// the adapter says it was trained on, if it does.
    ///
    /// # Errors
    ///
    /// If the adapter is malformed, asks for more than LoRA, or belongs to
    /// another base.
    pub fn load_adapter(&self, dir: &Path, base: Option<&str>) -> Result<Self> {
        let bare = self.without_adapter();
        let (config, tensors) = lora::read(dir, &bare.decoder, base)?;
        bare.with_adapter(config, &lora::Source::Tensors(&tensors))
    }

    fn with_adapter(&self, config: LoraConfig, source: &lora::Source<'_>) -> Result<Self> {
        let mut model = self.without_adapter();
        let config = lora::expanded(&model.decoder, &config);
        let tensors = lora::attach(&mut model.decoder, &config, source)?;
        model.adapter = Some((config, tensors));
        Ok(model)
    }

    /// Whether this model's adapter is what these settings make; dropout may
    /// differ. Without an adapter it is not.
    pub fn adapter_is(&self, config: &LoraConfig) -> bool {
        self.adapter().is_some_and(|own| own.computes_like(&lora::expanded(&self.decoder, config)))
    }

    /// The weights in their places, and nothing else that holds them.
    pub(crate) fn into_decoder(self) -> Decoder {
        self.decoder
    }

    /// The base alone. The weights are shared, not copied.
    pub fn without_adapter(&self) -> Self {
        Self { adapter: None, decoder: Decoder::new(&self.config, &self.params), ..self.clone() }
    }

    /// The settings of the adapter, if there is one.
    pub fn adapter(&self) -> Option<&LoraConfig> {
        self.adapter.as_ref().map(|(config, _)| config)
    }

    /// Writes the adapter into an existing directory, in PEFT's format.
    /// `base_path` is what PEFT finds the base by, `base` the identity of its
    /// weights.
    ///
    /// # Errors
    ///
    /// If there is no adapter or a file cannot be written.
    pub fn save_adapter(&self, dir: &Path, base_path: &str, base: Option<&str>) -> Result<()> {
        match &self.adapter {
            Some((config, tensors)) => lora::write(dir, config, tensors, base_path, base),
            None => Err(Error::Config {
                origin: dir.display().to_string(),
                message: "there is no adapter to save".to_owned(),
            }),
        }
    }

    /// A model without adapter that computes what this one does, with weights
    /// of its own.
    ///
    /// # Errors
    ///
    /// If the device cannot hold a second set of weights.
    pub fn merge_adapter(&self) -> Result<Self> {
        let adapted = lora::adapted(&self.decoder);
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        for (name, var) in &self.params {
            let tensor = match adapted.get(name.as_str()) {
                Some(linear) => lora::merged(linear)?,
                None => var.as_detached_tensor().copy()?,
            };
            tensors.insert(name.clone(), tensor);
        }
        let mut model = Self::from_tensors((*self.config).clone(), tensors, &self.device, self.dtype)?;
        model.settings = self.settings;
        Ok(model)
    }
}
