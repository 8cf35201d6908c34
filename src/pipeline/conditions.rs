//! What each family of pipelines makes of a text: tensors under the names of the denoiser's inputs, without a batch dimension.

use super::network::Network;
use super::{Error, Pipeline};
use ndarray::{ArrayD, Axis, IxDyn, concatenate};
use sara_runtime::tensor::{Tensor, Tensors};
use std::collections::BTreeMap;

/// What a denoiser is told of one sample.
pub type Conditions = BTreeMap<String, ArrayD<f32>>;

/// Tokens of texts for an encoder whose tokenizer sets no limit.
const LENGTH: usize = 77;
/// Tokens of texts for the T5 of Stable Diffusion 3, whatever its tokenizer says: what diffusers' pipeline asks for.
const SD3_T5_LENGTH: usize = 256;
/// The same of Flux.
const FLUX_T5_LENGTH: usize = 512;
/// The same of the first PixArt.
const PIXART_ALPHA_LENGTH: usize = 120;
/// The same of PixArt Sigma and Sana.
const MASKED_LENGTH: usize = 300;
/// What Sana's text encoder reads before the text of a picture (Xie et al. 2025, section 2.3; the wording of diffusers' pipeline).
const INSTRUCTION: &str = "\
    Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image \
    generation. Evaluate the level of detail in the user prompt:\n\
    - If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial relationships \
    to create vivid and concrete scenes.\n\
    - If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.\n\
    Here are examples of how to transform or refine prompts:\n\
    - User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping peacefully \
    on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n\
    - User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street lamps, a \
    diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.\n\
    Please generate only the enhanced description for the prompt below and avoid including any additional commentary or \
    evaluations:\n\
    User Prompt: ";

/// What a text encoder makes of a text: its outputs without a batch dimension, and the mask of the tokens.
type Encoding = (BTreeMap<String, ArrayD<f32>>, ArrayD<f32>);

/// Makes conditions of a text.
type Embed = fn(&mut Pipeline, &str) -> Result<Conditions, Error>;

/// How a family embeds texts.
struct Family {
    /// The beginning of its classes' names in diffusers; of those that fit the longest counts.
    class: &'static str,
    /// Strength of guidance where none is asked for, as in diffusers.
    guidance: f32,
    /// What a picture shows.
    shown: Embed,
    /// What it does not show, and no text.
    avoided: Embed,
}

/// A family to which it is the same what a text is for.
const fn family(class: &'static str, guidance: f32, embed: Embed) -> Family {
    Family { class, guidance, shown: embed, avoided: embed }
}

static FAMILIES: [Family; 9] = [
    family("StableDiffusion", 7.5, stable_diffusion),
    family("LatentConsistencyModel", 8.5, stable_diffusion),
    family("StableDiffusionXL", 5.0, stable_diffusion_xl),
    family("StableDiffusion3", 7.0, stable_diffusion_3),
    family("Flux", 3.5, flux),
    family("PixArtAlpha", 4.5, |pipeline, text| masked(pipeline, text, PIXART_ALPHA_LENGTH)),
    family("PixArt", 4.5, |pipeline, text| masked(pipeline, text, MASKED_LENGTH)),
    Family {
        class: "Sana",
        guidance: 4.5,
        shown: instructed,
        avoided: |pipeline, text| masked(pipeline, text, MASKED_LENGTH),
    },
    family("DiT", 4.0, none),
];

impl Pipeline {
    /// The conditions of a text that says what a picture shows. Nothing stands for no text at all, as in [`Pipeline::avoided`].
    pub fn conditions(&mut self, prompt: Option<&str>) -> Result<Conditions, Error> {
        match prompt {
            Some(prompt) => (self.family()?.shown)(self, prompt),
            None => self.avoided(None),
        }
    }

    /// The conditions of a text that says what a picture does not show. Nothing stands for no text at all, which is the empty text but
    /// where the pipeline wants zeros.
    pub fn avoided(&mut self, prompt: Option<&str>) -> Result<Conditions, Error> {
        let mut found = (self.family()?.avoided)(self, prompt.unwrap_or_default())?;
        if prompt.is_none() && self.folder.force_zeros_for_empty_prompt {
            found.values_mut().for_each(|tensor| tensor.fill(0.0));
        }
        Ok(found)
    }

    /// Strength of guidance where none is asked for.
    pub fn guidance(&self) -> Result<f32, Error> {
        Ok(self.family()?.guidance)
    }

    fn family(&self) -> Result<&'static Family, Error> {
        let class = &self.folder.class_name;
        FAMILIES.iter().filter(|f| class.starts_with(f.class)).max_by_key(|f| f.class.len()).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|f| f.class).collect();
            Error::Misfit(format!("pipelines of class `{class}` are not known; known are {}", known.join(", ")))
        })
    }

    /// Outputs of text encoder `i` for a text, without their batch dimension, and the mask of its tokens. Nothing if the pipeline has
    /// no such encoder. `length` is the number of tokens, if it is not the tokenizer's.
    fn encode(&mut self, i: usize, text: &str, length: Option<usize>) -> Result<Option<Encoding>, Error> {
        let Some(encoder) = &self.folder.encoders[i] else { return Ok(None) };
        let own = || encoder.tokenizer.max_length().or(encoder.part.config.max_position_embeddings).unwrap_or(LENGTH);
        let length = length.unwrap_or_else(own);
        let tokens = encoder.tokenizer.encode(text, length)?;
        if tokens.truncated {
            let own = text.strip_prefix(INSTRUCTION).unwrap_or(text);
            eprintln!("warning: a text is longer than {length} tokens and loses its end: {own}");
        }
        if self.encoders[i].is_none() {
            self.encoders[i] = Some(Network::open(&encoder.part.model, self.threads)?);
        }
        let Some(network) = &mut self.encoders[i] else { return Ok(None) };
        let row = |values: Vec<i64>| ndarray::Array2::from_shape_vec((1, length), values).map(|a| a.into_dyn());
        let misfit = |e: ndarray::ShapeError| Error::Misfit(format!("token ids do not fit: {e}"));
        let mask = row(tokens.mask).map_err(misfit)?;
        let inputs = Tensors::from([
            ("input_ids".to_owned(), Tensor::I64(row(tokens.ids).map_err(misfit)?)),
            ("attention_mask".to_owned(), Tensor::I64(mask.clone())),
        ]);
        let outputs = network.run(&inputs)?;
        let first = outputs.iter().filter_map(|(name, tensor)| Some((name.clone(), floats(&tensor.at(0)?)?)));
        Ok(Some((first.collect(), mask.index_axis(Axis(0), 0).mapv(|m| m as f32))))
    }

    /// The same for an encoder that the family needs.
    fn encoded(&mut self, i: usize, text: &str, length: Option<usize>) -> Result<BTreeMap<String, ArrayD<f32>>, Error> {
        self.encode(i, text, length)?.map(|found| found.0).ok_or_else(|| {
            Error::Misfit(format!("{}: the pipeline lacks text encoder {}", self.folder.root.display(), i + 1))
        })
    }
}

fn floats(tensor: &Tensor) -> Option<ArrayD<f32>> {
    ArrayD::from_shape_vec(IxDyn(tensor.shape()), tensor.to_f32()).ok()
}

/// An output of a text encoder.
fn output(outputs: &BTreeMap<String, ArrayD<f32>>, name: &str) -> Result<ArrayD<f32>, Error> {
    outputs.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = outputs.keys().map(String::as_str).collect();
        Error::Misfit(format!("a text encoder has no output `{name}`; its outputs are {}", known.join(", ")))
    })
}

/// The hidden states before the last layer: of the outputs `hidden_states.N` that with the last N but one.
fn penultimate(outputs: &BTreeMap<String, ArrayD<f32>>) -> Result<ArrayD<f32>, Error> {
    let number = |name: &str| name.strip_prefix("hidden_states.")?.parse::<usize>().ok();
    let mut numbers: Vec<usize> = outputs.keys().filter_map(|name| number(name)).collect();
    numbers.sort_unstable();
    let at = numbers.len().checked_sub(2).map_or(0, |i| numbers[i]);
    output(outputs, &format!("hidden_states.{at}"))
}

/// Width of embeddings, [tokens, width].
fn width_of(states: &ArrayD<f32>) -> Result<usize, Error> {
    match states.shape() {
        [_, width] => Ok(*width),
        shape => Err(Error::Misfit(format!("a text encoder's embeddings have shape {shape:?}, not [tokens, width]"))),
    }
}

fn joined(axis: usize, parts: &[ArrayD<f32>]) -> Result<ArrayD<f32>, Error> {
    let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
    concatenate(Axis(axis), &views)
        .map_err(|e| Error::Misfit(format!("embeddings of the text encoders do not fit: {e}")))
}

fn named<const N: usize>(list: [(&str, ArrayD<f32>); N]) -> Conditions {
    list.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

fn stable_diffusion(pipeline: &mut Pipeline, text: &str) -> Result<Conditions, Error> {
    let outputs = pipeline.encoded(0, text, None)?;
    Ok(named([("encoder_hidden_states", output(&outputs, "last_hidden_state")?)]))
}

/// The hidden states of both encoders side by side, and the second's pooled output. The refiner has the second encoder alone.
fn stable_diffusion_xl(pipeline: &mut Pipeline, text: &str) -> Result<Conditions, Error> {
    let mut states = Vec::new();
    if let Some((first, _)) = pipeline.encode(0, text, None)? {
        states.push(penultimate(&first)?);
    }
    let second = pipeline.encoded(1, text, None)?;
    states.push(penultimate(&second)?);
    let pooled = output(&second, "text_embeds")?;
    Ok(named([("encoder_hidden_states", joined(1, &states)?), ("text_embeds", pooled)]))
}

/// CLIP's hidden states side by side, widened by zeros to T5's and followed by them (Esser et al. 2024, section 5.2). Without T5
/// zeros stand in its place.
fn stable_diffusion_3(pipeline: &mut Pipeline, text: &str) -> Result<Conditions, Error> {
    let (first, second) = (pipeline.encoded(0, text, None)?, pipeline.encoded(1, text, None)?);
    let clip = joined(1, &[penultimate(&first)?, penultimate(&second)?])?;
    let pooled = joined(0, &[output(&first, "text_embeds")?, output(&second, "text_embeds")?])?;
    let t5 = match pipeline.encode(2, text, Some(SD3_T5_LENGTH))? {
        Some((third, _)) => output(&third, "last_hidden_state")?,
        None => {
            let width = pipeline.folder.denoiser.config.joint_attention_dim.unwrap_or(width_of(&clip)?);
            ArrayD::zeros(IxDyn(&[SD3_T5_LENGTH, width]))
        }
    };
    let (own, wanted) = (width_of(&clip)?, width_of(&t5)?);
    let missing = wanted
        .checked_sub(own)
        .ok_or_else(|| Error::Misfit(format!("embeddings of CLIP are wider ({own}) than those of T5 ({wanted})")))?;
    let zeros = ArrayD::zeros(IxDyn(&[clip.shape()[0], missing]));
    let states = joined(0, &[joined(1, &[clip, zeros])?, t5])?;
    Ok(named([("encoder_hidden_states", states), ("pooled_projections", pooled)]))
}

fn flux(pipeline: &mut Pipeline, text: &str) -> Result<Conditions, Error> {
    let (first, second) = (pipeline.encoded(0, text, None)?, pipeline.encoded(1, text, Some(FLUX_T5_LENGTH))?);
    let (pooled, states) = (output(&first, "pooler_output")?, output(&second, "last_hidden_state")?);
    width_of(&states)?;
    let ids = ArrayD::zeros(IxDyn(&[states.shape()[0], 3]));
    Ok(named([("encoder_hidden_states", states), ("pooled_projections", pooled), ("txt_ids", ids)]))
}

/// One encoder whose padding is masked. Texts are in lower case and without spaces around them.
fn masked(pipeline: &mut Pipeline, text: &str, length: usize) -> Result<Conditions, Error> {
    masked_as_is(pipeline, text.to_lowercase().trim(), length)
}

/// The same behind an instruction. Of its tokens the first is kept, and those that stand in the place of the last and after it.
fn instructed(pipeline: &mut Pipeline, text: &str) -> Result<Conditions, Error> {
    let Some(encoder) = &pipeline.folder.encoders[0] else { return Err(missing()) };
    let skipped = encoder.tokenizer.count(INSTRUCTION)?.saturating_sub(2);
    let text = format!("{INSTRUCTION}{}", text.to_lowercase().trim());
    let mut found = masked_as_is(pipeline, &text, skipped + MASKED_LENGTH)?;
    for tensor in found.values_mut() {
        let kept: Vec<usize> = std::iter::once(0).chain(skipped + 1..skipped + MASKED_LENGTH).collect();
        *tensor = tensor.select(Axis(0), &kept);
    }
    Ok(found)
}

fn missing() -> Error {
    Error::Misfit("the pipeline lacks its text encoder".into())
}

fn masked_as_is(pipeline: &mut Pipeline, text: &str, length: usize) -> Result<Conditions, Error> {
    let (outputs, mask) = pipeline.encode(0, text, Some(length))?.ok_or_else(missing)?;
    let states = output(&outputs, "last_hidden_state")?;
    Ok(named([("encoder_hidden_states", states), ("encoder_attention_mask", mask)]))
}

/// Texts say nothing to models of classes.
fn none(_: &mut Pipeline, _: &str) -> Result<Conditions, Error> {
    Ok(Conditions::new())
}
