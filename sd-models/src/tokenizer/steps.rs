//! The steps from a text to tokens, in the order of transformers' `CLIPTokenizer`.

use std::sync::{Arc, OnceLock};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{
    NormalizedString, Normalizer, PreTokenizedString, PreTokenizer, Result, SplitDelimiterBehavior,
    TokenizerImpl,
};

use super::special::SpecialTokens;

/// The pieces a text is split into before byte-pair encoding: contractions, words, single digits, and
/// runs of anything else that is not white space.
const WORDS: &str = concat!(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d",
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
);

pub(super) type Tokenizer = TokenizerImpl<
    BPE,
    Shared<Normalizers>,
    Shared<PreTokenizers>,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The tokenizer of a vocabulary and its special tokens.
pub(super) fn assemble(model: BPE, special: SpecialTokens) -> Result<Tokenizer> {
    let (normalizer, words) = steps()?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(Some(normalizer))?;
    tokenizer.with_pre_tokenizer(Some(words));
    tokenizer.add_tokens(special.added)?;
    Ok(tokenizer)
}

/// A step that all tokenizers have in common: compiling its patterns takes longer than reading a
/// small vocabulary, and a clone of them is compiled anew.
#[derive(Debug)]
pub(super) struct Shared<T>(Arc<T>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Normalizer + Send + Sync> Normalizer for Shared<T> {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        self.0.normalize(text)
    }
}

impl<T: PreTokenizer + Send + Sync> PreTokenizer for Shared<T> {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        self.0.pre_tokenize(text)
    }
}

type Steps = (Shared<Normalizers>, Shared<PreTokenizers>);

fn steps() -> Result<Steps> {
    static STEPS: OnceLock<Steps> = OnceLock::new();
    if let Some(steps) = STEPS.get() {
        return Ok(steps.clone());
    }
    let normalizer = Normalizers::new(vec![
        NFC.into(),
        Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?.into(),
        Lowercase.into(),
    ]);
    let words = SplitPattern::Regex(WORDS.into());
    let words = Split::new(words, SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, true);
    let words = PreTokenizers::new(vec![words.into(), bytes.into()]);
    let steps = (Shared(Arc::new(normalizer)), Shared(Arc::new(words)));
    Ok(STEPS.get_or_init(|| steps).clone())
}
