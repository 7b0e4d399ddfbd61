//! Ten widely used chat templates give the texts and ids of `transformers`
//! (tests/golden/make_template_golden.py writes the file and says what is in it).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use spin_text::{ALPACA_TEMPLATE, BosPolicy, Codec, Message, TemplateChoice, TextError};
use tempfile::TempDir;

#[derive(Deserialize)]
struct Golden {
    #[serde(deserialize_with = "day")]
    date: NaiveDate,
    conversations: Vec<Vec<Message>>,
    hostile: Vec<Vec<Message>>,
    templates: BTreeMap<String, Family>,
    constructs: Vec<Construct>,
    dates: Vec<Date>,
}

#[derive(Deserialize)]
struct Family {
    tokens: BTreeMap<String, String>,
    eos: Vec<String>,
    cases: Vec<Option<Case>>,
    protected: Vec<Option<Case>>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    prompt_text: String,
    prompt_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Construct {
    source: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Date {
    #[serde(deserialize_with = "day")]
    date: NaiveDate,
    format: String,
    text: String,
}

fn day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveDate, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/text")
}

fn golden() -> Golden {
    serde_json::from_str(&fs::read_to_string(root().join("templates.json")).unwrap()).unwrap()
}

/// A model directory of the family.
fn directory(name: &str, family: &Family, add_bos: bool) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let templates = root().join("templates");
    fs::copy(templates.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    fs::copy(templates.join(format!("{name}.jinja")), dir.path().join("chat_template.jinja")).unwrap();
    let mut config = json!(family.tokens);
    config["add_bos_token"] = json!(add_bos);
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let codec = Codec::from_dir(dir.path()).unwrap();
    let ids: Vec<_> = family.eos.iter().map(|token| codec.tokenizer().token_to_id(token).unwrap()).collect();
    fs::write(dir.path().join("generation_config.json"), json!({"eos_token_id": ids}).to_string()).unwrap();
    dir
}

fn codec(name: &str, family: &Family, add_bos: bool, date: NaiveDate) -> Codec {
    Codec::from_dir(directory(name, family, add_bos).path()).unwrap().with_date(date)
}

/// Every family with its codec, as `transformers` tokenizes: the template alone writes BOS.
fn families(golden: &Golden) -> impl Iterator<Item = (&str, &Family, Codec)> {
    golden.templates.iter().map(|(name, family)| (&**name, family, codec(name, family, false, golden.date)))
}

#[test]
fn texts_and_ids_equal_those_of_transformers() {
    let golden = golden();
    let (mut rendered, mut refused) = (0, 0);
    for (name, family, codec) in families(&golden) {
        assert_eq!(codec.bos_policy(), BosPolicy::Template);
        let cases = golden.conversations.iter().zip(&family.cases);
        for (messages, case) in cases.chain(golden.hostile.iter().zip(&family.protected)) {
            let Some(case) = case else {
                for error in [codec.prompt_text(messages), codec.conversation_text(messages)] {
                    let error = error.expect_err(&format!("{name} renders {messages:?}"));
                    assert!(matches!(error, TextError::Render { .. }), "{name}: {error}");
                }
                refused += 1;
                continue;
            };
            assert_eq!(codec.conversation_text(messages).unwrap(), case.text, "{name}");
            assert_eq!(codec.prompt_text(messages).unwrap(), case.prompt_text, "{name}");
            assert_eq!(codec.conversation_ids(messages).unwrap(), case.ids, "{name}: {}", case.text);
            assert_eq!(codec.prompt_ids(messages).unwrap(), case.prompt_ids, "{name}: {}", case.prompt_text);
            rendered += 1;
        }
    }
    // Who thins out the cases should mean to.
    assert_eq!((golden.templates.len(), rendered, refused), (10, 203, 27));
}

/// The system role of gemma, and turns out of order in gemma, llama-2, mistral and alpaca.
#[test]
fn what_templates_raise_is_quoted() {
    let golden = golden();
    let odd = [Message::user("a"), Message::user("b")];
    let mut strict = Vec::new();
    for (name, _, codec) in families(&golden) {
        if let Err(error) = codec.prompt_ids(&odd) {
            assert!(error.to_string().contains("must take turns"), "{error}");
            strict.push(name);
        }
        let system = codec.prompt_ids(&[Message::system("Be brief."), Message::user("a")]);
        assert_eq!(system.is_err(), name == "gemma-2", "{name}");
        if let Err(error) = system {
            assert!(error.to_string().contains("there is no system role"), "{error}");
        }
    }
    assert_eq!(strict, ["alpaca", "gemma-2", "llama-2", "mistral-instruct"]);
}

/// A tokenizer that adds BOS does so where the template leaves it out, and nowhere else.
#[test]
fn bos_is_never_doubled() {
    let golden = golden();
    let mut left_to_the_tokenizer = Vec::new();
    for (name, family) in &golden.templates {
        if !family.tokens.contains_key("bos_token") {
            continue;
        }
        let codec = codec(name, family, true, golden.date);
        let bos = codec.bos_id().unwrap();
        assert_eq!(codec.bos_policy(), BosPolicy::Prepend);
        let mut writes = None;
        for (messages, case) in golden.conversations.iter().zip(&family.cases) {
            // A conversation without turns can be an empty text.
            let Some(case) = case.as_ref().filter(|case| !case.prompt_ids.is_empty()) else { continue };
            let own = case.prompt_ids[0] == bos;
            assert_eq!(*writes.get_or_insert(own), own, "{name}");
            for (ids, golden) in [
                (codec.prompt_ids(messages).unwrap(), &case.prompt_ids),
                (codec.conversation_ids(messages).unwrap(), &case.ids),
            ] {
                assert_eq!(ids[0], bos, "{name}");
                assert_ne!(ids.get(1), Some(&bos), "{name}");
                assert_eq!(ids[usize::from(!own)..], golden[..], "{name}");
            }
        }
        if writes == Some(false) {
            left_to_the_tokenizer.push(&**name);
        }
    }
    assert_eq!(left_to_the_tokenizer, ["chatml", "phi-3", "zephyr"]);
}

/// A prompt and its answer are the conversation of `transformers`, up to the end of the answer.
#[test]
fn answers_continue_their_prompts() {
    let golden = golden();
    let mut answered = BTreeMap::new();
    for (name, family, codec) in families(&golden) {
        let conversations = golden.conversations.iter().zip(&family.cases);
        for (messages, case) in conversations.chain(golden.hostile.iter().zip(&family.protected)) {
            let (Some(case), Some((answer, prompt))) = (case, messages.split_last()) else { continue };
            if answer.role != "assistant" || answer.content.is_empty() || prompt.last().is_none_or(|m| m.role != "user")
            {
                continue;
            }
            let prompt_ids = codec.prompt_ids(prompt).unwrap();
            let ids = codec.response_ids(prompt, &answer.content).unwrap();
            let whole = [&prompt_ids[..], &ids].concat();
            let upto = case.ids.get(..whole.len()).unwrap_or_else(|| panic!("{name}: {}", case.text));
            assert_eq!(whole, upto, "{name}: {}", case.text);
            // What is cut is not the answer's.
            let rest = codec.decode(&case.ids[whole.len()..]).unwrap();
            assert_eq!(rest.trim(), "", "{name}: {}", case.text);
            *answered.entry(name).or_insert(0) += 1;
        }
    }
    assert_eq!(answered.values().sum::<usize>(), 59, "{answered:?}");
}

/// Control tokens come from the template alone, whoever's texts they are in messages.
#[test]
fn control_strings_in_messages_stay_text() {
    let golden = golden();
    for (name, family, codec) in families(&golden) {
        let special: Vec<_> =
            codec.tokenizer().get_added_tokens_decoder().into_iter().filter(|(_, t)| t.special).collect();
        let count = |ids: &[u32]| ids.iter().filter(|id| special.iter().any(|(s, _)| s == *id)).count();
        let all: String = special.iter().map(|(_, token)| format!(" {}", token.content)).collect();
        let (plain, hostile) = (Message::user("x"), Message::user(format!("x{all} x")));
        let before = codec.prompt_ids(std::slice::from_ref(&plain)).unwrap();
        let after = codec.prompt_ids(std::slice::from_ref(&hostile)).unwrap();
        assert_eq!(count(&after), count(&before), "{name}");
        assert!(codec.decode(&after).unwrap().contains(&all), "{name}");

        let answer = codec.response_ids(std::slice::from_ref(&plain), &format!("y{all} y")).unwrap();
        let ends: Vec<_> = answer.iter().filter(|id| codec.eos_ids().contains(id)).collect();
        assert_eq!(ends, [answer.last().unwrap()], "{name}");
        assert!(codec.decode_response(&before, &answer).unwrap().contains(&all), "{name}");
        assert_eq!(special.len(), 22, "{:?}", family.tokens);
    }
}

/// What Jinja is to `transformers`, construct by construct.
#[test]
fn constructs_equal_those_of_jinja() {
    let golden = golden();
    let dir = directory("llama-3", &golden.templates["llama-3"], false);
    let mut wrong = Vec::new();
    for construct in &golden.constructs {
        let choice = TemplateChoice::Custom(construct.source.clone());
        let codec = Codec::from_dir_with(dir.path(), choice).map(|codec| codec.with_date(golden.date));
        let text = codec.and_then(|codec| codec.prompt_text(&golden.conversations[3]));
        if text.as_ref().ok() != construct.text.as_ref() {
            wrong.push(format!("{}\n  ours:  {text:?}\n  jinja: {:?}", construct.source, construct.text));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), golden.constructs.len(), wrong.join("\n"));
}

#[test]
fn dates_equal_those_of_python() {
    let golden = golden();
    let dir = directory("chatml", &golden.templates["chatml"], false);
    assert!(golden.dates.len() > 40);
    for Date { date, format, text } in &golden.dates {
        let source = format!("{{{{ strftime_now({}) }}}}", json!(format));
        let codec = Codec::from_dir_with(dir.path(), TemplateChoice::Custom(source)).unwrap().with_date(*date);
        assert_eq!(codec.prompt_text(&[Message::user("a")]).unwrap(), *text, "{format:?}");
    }
}

/// Without a day llama-3 falls back to its own, and a template that insists is refused.
#[test]
fn the_day_is_fixed_or_absent() {
    let golden = golden();
    let dir = directory("llama-3", &golden.templates["llama-3"], false);
    let prompt = [Message::user("a")];
    let undated = Codec::from_dir(dir.path()).unwrap();
    let dated = Codec::from_dir(dir.path()).unwrap().with_date(golden.date);
    let text = dated.prompt_text(&prompt).unwrap();
    assert!(text.contains("\nToday Date: 29 Feb 2024\n"), "{text}");
    assert_eq!(undated.prompt_text(&prompt).unwrap(), text.replace("29 Feb 2024", "26 Jul 2024"));

    // A description without a day is the one of before days could be set.
    let mut description = dated.describe();
    assert_eq!(description.as_object_mut().unwrap().remove("date"), Some(json!("2024-02-29")));
    assert_eq!(description, undated.describe());

    let custom = |source: &str| Codec::from_dir_with(dir.path(), TemplateChoice::Custom(source.to_owned())).unwrap();
    let error = custom("{{ strftime_now('%Y') }}").prompt_text(&prompt).unwrap_err();
    assert!(matches!(error, TextError::Today { .. }), "{error}");
    assert!(error.to_string().contains("`template.date`"), "{error}");
    let error = custom("{{ strftime_now('%Q') }}").with_date(golden.date).prompt_text(&prompt).unwrap_err();
    assert!(matches!(error, TextError::Render { .. }), "{error}");
    assert!(error.to_string().contains("\"%Q\""), "{error}");
}

/// The prompt of SPIN's paper, whatever the family.
#[test]
fn the_papers_prompt_is_one_of_all_families() {
    let golden = golden();
    for (name, family, _) in families(&golden) {
        let dir = directory(name, family, false);
        let codec = Codec::from_dir_with(dir.path(), TemplateChoice::Alpaca).unwrap();
        let custom = TemplateChoice::Custom(ALPACA_TEMPLATE.to_owned());
        assert_eq!(codec.describe(), Codec::from_dir_with(dir.path(), custom).unwrap().describe());
        let prompt = [Message::user(" Say </s>.\n")];
        assert_eq!(codec.prompt_text(&prompt).unwrap(), "### Instruction:  Say </s>.\n\n\n### Response: ");
        let ids = codec.response_ids(&prompt, "It ends.").unwrap();
        assert_eq!(codec.decode_all(&ids).unwrap(), format!("It ends.{}", family.tokens["eos_token"]));
    }
}
