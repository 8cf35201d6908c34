//! Texts as token ids, as a pipeline's text encoders take them: CLIP's from `vocab.json` and `merges.txt`, any other from
//! `tokenizer.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, TruncationParams};

use crate::Error;

/// Where CLIP's words end: contractions, letters, single digits, and runs of anything else (Radford et al. 2021, the reference
/// implementation's pattern).
const CLIP_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Token counts beyond this are how configurations say "no limit".
const UNLIMITED: f64 = 1e9;

/// A pipeline's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad: u32,
    /// Tokens of a text, with those that begin and end it; nothing where the configuration names none.
    max_length: Option<usize>,
}

/// Token ids of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The ids, padded to the wanted length.
    pub ids: Vec<i64>,
    /// 1 for each id that is no padding.
    pub mask: Vec<i64>,
    /// Whether the text was longer and lost its end.
    pub truncated: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    model_max_length: Option<f64>,
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    pad_token: Option<Value>,
    unk_token: Option<Value>,
}

impl Tokenizer {
    /// Reads a folder of `tokenizer.json`, or of `vocab.json` and `merges.txt`.
    pub fn open(folder: &Path) -> Result<Tokenizer, Error> {
        let config = read_config(&folder.join("tokenizer_config.json"))?;
        let whole = folder.join("tokenizer.json");
        let inner = match (whole.is_file(), folder.join("vocab.json").is_file()) {
            (true, _) => tokenizers::Tokenizer::from_file(&whole).map_err(|e| Error::file(&whole, e))?,
            (false, true) => clip(folder, &config)?,
            (false, false) => {
                return Err(Error::file(
                    folder,
                    "holds neither tokenizer.json nor vocab.json and merges.txt; a sentencepiece model alone cannot be read: save the \
                     tokenizer with `use_fast=True`",
                ));
            }
        };
        let id = |token: &str| inner.token_to_id(token);
        let named = config.pad_token.as_ref().and_then(text).or_else(|| config.eos_token.as_ref().and_then(text));
        let pad = match (&named, inner.get_padding()) {
            (Some(token), _) => id(token)
                .ok_or_else(|| Error::file(folder, format!("the padding token `{token}` is not in the vocabulary")))?,
            (None, Some(padding)) => padding.pad_id,
            (None, None) => 0,
        };
        let max_length = config.model_max_length.filter(|n| *n >= 1.0 && *n < UNLIMITED).map(|n| n as usize);
        Ok(Tokenizer { inner, pad, max_length })
    }

    /// The most tokens of a text, if the configuration says it.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Tokens of a text, with those that begin and end it, however many they are.
    pub fn count(&self, prompt: &str) -> Result<usize, Error> {
        let mut inner = self.inner.clone();
        inner.with_padding(None);
        let failed = |e: tokenizers::Error| Error::Invalid(format!("the text `{prompt}` cannot be tokenized: {e}"));
        inner.with_truncation(None).map_err(failed)?;
        Ok(inner.encode(prompt, true).map_err(failed)?.len())
    }

    /// Exactly `length` ids: the text's, cut or padded at its end.
    pub fn encode(&self, prompt: &str, length: usize) -> Result<Encoded, Error> {
        let failed = |e: tokenizers::Error| Error::Invalid(format!("the text `{prompt}` cannot be tokenized: {e}"));
        let mut inner = self.inner.clone();
        inner.with_padding(None);
        let truncation = TruncationParams { max_length: length, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(failed)?;
        let found = inner.encode(prompt, true).map_err(failed)?;
        let mut ids: Vec<i64> = found.get_ids().iter().map(|id| i64::from(*id)).collect();
        ids.truncate(length);
        let mut mask = vec![1; ids.len()];
        ids.resize(length, i64::from(self.pad));
        mask.resize(length, 0);
        Ok(Encoded { ids, mask, truncated: !found.get_overflowing().is_empty() })
    }
}

/// A token is a text, or an object that holds one.
fn text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn read_config(path: &Path) -> Result<Config, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| Error::file(path, e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(e) => Err(Error::file(path, e)),
    }
}

/// CLIP's tokenizer: lower case, words, byte-level pairs whose last piece carries `</w>`.
fn clip(folder: &Path, config: &Config) -> Result<tokenizers::Tokenizer, Error> {
    let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
    let failed = |e: tokenizers::Error| Error::file(folder, e);
    if !merges.is_file() {
        return Err(Error::file(&merges, "is missing beside vocab.json"));
    }
    let named =
        |token: &Option<Value>, default: &str| token.as_ref().and_then(text).unwrap_or_else(|| default.to_owned());
    let bos = named(&config.bos_token, "<|startoftext|>");
    let eos = named(&config.eos_token, "<|endoftext|>");
    let unknown = named(&config.unk_token, "<|endoftext|>");
    let [vocab, merges] = [vocab, merges].map(|path| path.to_string_lossy().into_owned());
    let model = BPE::from_file(&vocab, &merges)
        .unk_token(unknown.clone())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .build()
        .map_err(failed)?;
    let mut inner = tokenizers::Tokenizer::new(model);
    let spaces =
        Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into()), " ").map_err(failed)?;
    let normalizer = Sequence::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ]);
    inner.with_normalizer(Some(normalizer)).map_err(failed)?;
    let words =
        Split::new(SplitPattern::Regex(CLIP_WORDS.into()), SplitDelimiterBehavior::Removed, true).map_err(failed)?;
    let pieces =
        vec![PreTokenizerWrapper::Split(words), PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true))];
    inner.with_pre_tokenizer(Some(PreSequence::new(pieces)));
    let id = |token: &str| {
        inner.token_to_id(token).ok_or_else(|| Error::file(folder, format!("the token `{token}` is not in vocab.json")))
    };
    let (begin, end) = (id(&bos)?, id(&eos)?);
    inner.with_post_processor(Some(
        RobertaProcessing::new((eos.clone(), end), (bos.clone(), begin)).trim_offsets(false).add_prefix_space(false),
    ));
    let special: Vec<AddedToken> = [bos, eos, unknown].into_iter().map(|t| AddedToken::from(t, true)).collect();
    inner.add_special_tokens(special).map_err(failed)?;
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny/pipeline/tokenizer")
    }

    #[test]
    fn ids_are_those_of_transformers() {
        // CLIPTokenizer of transformers 4.57 on this folder.
        let tokenizer = Tokenizer::open(&folder()).unwrap();
        assert_eq!(tokenizer.max_length(), Some(77));
        for (prompt, wanted) in [
            ("a photo of the red cat", &[532, 320, 515, 525, 527, 517, 522, 533][..]),
            ("style of the blue dog", &[532, 531, 525, 527, 520, 524, 533]),
            ("the cat, of style: 3 dogs!", &[532, 527, 522, 267, 525, 531, 281, 274, 523, 70, 338, 256, 533]),
            ("", &[532, 533]),
            ("  The\n\tCAT  ", &[532, 527, 522, 533]),
        ] {
            let found = tokenizer.encode(prompt, 77).unwrap();
            assert_eq!(found.ids[..wanted.len()], *wanted, "{prompt}");
            assert!(found.ids[wanted.len()..].iter().all(|id| *id == 533));
            assert_eq!(found.mask.iter().sum::<i64>() as usize, wanted.len());
            assert_eq!((found.ids.len(), found.mask.len(), found.truncated), (77, 77, false));
            assert_eq!(tokenizer.count(prompt).unwrap(), wanted.len());
        }
    }

    #[test]
    fn a_long_text_loses_its_end_and_says_so() {
        let tokenizer = Tokenizer::open(&folder()).unwrap();
        let found = tokenizer.encode(&"red cat ".repeat(50), 77).unwrap();
        assert!(found.truncated);
        assert_eq!((found.ids.len(), found.ids[0], found.ids[76]), (77, 532, 533));
        assert_eq!(found.ids[75], 517);
        assert_eq!(tokenizer.count(&"red cat ".repeat(50)).unwrap(), 102);
    }

    #[test]
    fn folders_that_hold_no_tokenizer_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = |what: &str| {
            let error = Tokenizer::open(folder.path()).map(drop).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        error("neither tokenizer.json");
        std::fs::write(folder.path().join("vocab.json"), r#"{"a": 0, "a</w>": 1}"#).unwrap();
        error("merges.txt");
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\n").unwrap();
        error("<|startoftext|>");
        std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
        error("tokenizer.json");
        std::fs::write(folder.path().join("tokenizer_config.json"), "[").unwrap();
        error("tokenizer_config.json");
    }
}
