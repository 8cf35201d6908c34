//! A pipeline of optimum against what transformers and diffusers make of it (`tests/pipeline`): texts, pictures and samplings.

#![expect(clippy::unwrap_used, reason = "a test fails where its set-up does")]

use ndarray::{Array4, Axis};
use sara::pipeline::Pipeline;
use sara::pipeline::cache::{Cache, Request, build};
use sara::pipeline::denoiser::Denoiser;
use sara::pipeline::sample::{Settings, Start, latents};
use sara_models::bucket::Buckets;
use sara_models::dataset::Item;
use sara_models::photo::png;
use sara_models::scheduler::SchedulerConfig;
use sara_runtime::tensor::{Tensor, Tensors, read_safetensors};
use serde_json::Value;
use std::path::{Path, PathBuf};

const BOUND: f32 = 1e-3;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn expected() -> (Value, Tensors) {
    let text = std::fs::read_to_string(folder("tests/pipeline/pipeline.expected.json")).unwrap();
    let tensors = read_safetensors(&folder("tests/pipeline/pipeline.expected.safetensors")).unwrap().0;
    (serde_json::from_str(&text).unwrap(), tensors)
}

fn pipeline() -> Pipeline {
    Pipeline::open(&folder("models/tiny/pipeline"), 2).unwrap()
}

fn array4(tensor: &Tensor) -> Array4<f32> {
    let shape: [usize; 4] = tensor.shape().try_into().unwrap();
    Array4::from_shape_vec(shape, tensor.to_f32()).unwrap()
}

fn close(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < BOUND, "{what}: differs by {worst}");
    println!("{what}: differs by {worst}");
}

#[test]
fn texts_are_embedded_as_transformers_does() {
    let (settings, tensors) = expected();
    let mut pipeline = pipeline();
    for (i, prompt) in settings["prompts"].as_array().unwrap().iter().enumerate() {
        let prompt = prompt.as_str().unwrap();
        let tokenizer = &pipeline.folder.encoders[0].as_ref().unwrap().tokenizer;
        let ids = tokenizer.encode(prompt, 77).unwrap().ids;
        assert_eq!(Tensor::i64(&[77], ids), tensors["input_ids"].at(i), "{prompt}");
        let found = pipeline.conditions(Some(prompt)).unwrap();
        let found = found["encoder_hidden_states"].as_slice().unwrap();
        close(prompt, found, &tensors["text.last_hidden_state"].at(i).unwrap().to_f32());
    }
}

#[test]
fn pictures_are_encoded_and_decoded_as_diffusers_does() {
    let (_, tensors) = expected();
    let mut pipeline = pipeline();
    let moments = pipeline.encode_pictures(array4(&tensors["vae.image"])).unwrap();
    let wanted = array4(&tensors["vae.latent_parameters"]);
    let (mean, log_variance) = wanted.view().split_at(Axis(1), 4);
    close("mean", moments.mean.as_slice().unwrap(), mean.as_standard_layout().as_slice().unwrap());
    let deviation = log_variance.mapv(|v| (0.5 * v.clamp(-30.0, 20.0)).exp());
    close("deviation", moments.deviation.as_slice().unwrap(), deviation.as_standard_layout().as_slice().unwrap());
    let latents = moments.latents(&Array4::zeros(moments.mean.dim()), &pipeline.folder.vae().unwrap().clone());
    let back = pipeline.decode_latents(latents).unwrap();
    close("picture", back.as_slice().unwrap(), &tensors["vae.decoded_mean"].to_f32());
}

#[test]
fn samplings_are_those_of_diffusers() {
    let (settings, tensors) = expected();
    let mut pipeline = pipeline();
    let steps = settings["steps"].as_u64().unwrap() as usize;
    let guidance = settings["guidance_scale"].as_f64().unwrap() as f32;
    let wanted = pipeline.conditions(settings["prompt_of_sampling"].as_str()).unwrap();
    let avoided = pipeline.avoided(settings["negative_prompt"].as_str()).unwrap();
    let mut network = pipeline.denoiser().unwrap();
    let denoiser = Denoiser::new(&pipeline.folder, network.inputs(), guidance);
    let own = pipeline.folder.scheduler.clone();
    for (name, class) in settings["schedulers"].as_object().unwrap() {
        pipeline.folder.scheduler = SchedulerConfig { class_name: class.as_str().unwrap().to_owned(), ..own.clone() };
        let sampling = Settings { sampler: name.clone(), steps, guidance };
        let start = Start { noise: array4(&tensors["sampling.latents"]), seed: 0 };
        let run = |inputs: &Tensors| Ok(network.run(inputs)?.remove(0).1);
        let found = latents(&pipeline, &denoiser, &sampling, start, [&wanted, &avoided], run, || ()).unwrap();
        close(name, found.as_slice().unwrap(), &tensors[&format!("sampling.{name}.latents")].to_f32());
        let picture = pipeline.decode_latents(found).unwrap();
        close(name, picture.as_slice().unwrap(), &tensors[&format!("sampling.{name}.image")].to_f32());
    }
}

/// Unpacks `tests/pipeline/NAME.zip`.
fn unpacked(name: &str) -> tempfile::TempDir {
    let file = std::fs::File::open(folder(&format!("tests/pipeline/{name}.zip"))).unwrap();
    let out = tempfile::tempdir().unwrap();
    zip::ZipArchive::new(file).unwrap().extract(out.path()).unwrap();
    out
}

#[test]
fn pipelines_of_other_families_draw_what_diffusers_draws() {
    let (prompt, shouted) = ("a photo of the red cat", "  A photo of the red CAT ");
    for (name, usual, guidance, prompt) in [
        ("sdxl", 5.0, 7.5, prompt),
        ("sd3", 7.0, 7.5, prompt),
        ("flux", 3.5, 3.5, prompt),
        ("pixart_alpha", 4.5, 4.5, shouted),
        ("pixart_sigma", 4.5, 4.5, shouted),
        ("sana", 4.5, 4.5, shouted),
    ] {
        let out = unpacked(name);
        let (expected, _) = read_safetensors(&out.path().join("expected.safetensors")).unwrap();
        let mut pipeline = Pipeline::open(out.path(), 2).unwrap();
        let wanted = pipeline.conditions(Some(prompt)).unwrap();
        let avoided = pipeline.avoided(None).unwrap();
        assert_eq!(pipeline.guidance().unwrap(), usual, "{name}");
        // Flux has models that know no guidance, and is never evaluated twice.
        assert_eq!(Denoiser::new(&pipeline.folder, &[], guidance).distilled(), name == "flux");
        let mut network = pipeline.denoiser().unwrap();
        let denoiser = Denoiser::new(&pipeline.folder, network.inputs(), guidance);
        let sampler = sara_models::sampler::of_class(&pipeline.folder.scheduler.class_name).unwrap().to_owned();
        let settings = Settings { sampler, steps: 6, guidance };
        let start = Start { noise: array4(&expected["latents"]), seed: 0 };
        let run = |inputs: &Tensors| Ok(network.run(inputs)?.remove(0).1);
        let found = latents(&pipeline, &denoiser, &settings, start, [&wanted, &avoided], run, || ()).unwrap();
        let picture = pipeline.decode_latents(found).unwrap().mapv(|v| (v / 2.0 + 0.5).clamp(0.0, 1.0));
        close(name, picture.as_slice().unwrap(), &expected["image"].to_f32());
        let moments = pipeline.encode_pictures(array4(&expected["picture"])).unwrap();
        let mean = moments.latents(&Array4::zeros(moments.mean.dim()), pipeline.folder.vae().unwrap());
        close(&format!("{name}, encoded"), mean.as_slice().unwrap(), &expected["encoded"].to_f32());
    }
}

#[test]
fn a_caption_that_is_left_out_has_no_instruction() {
    let out = unpacked("sana");
    let mut pipeline = Pipeline::open(out.path(), 2).unwrap();
    let picture = read_safetensors(&out.path().join("expected.safetensors")).unwrap().0["picture"].clone();
    let path = out.path().join("picture.png");
    std::fs::write(&path, png(array4(&picture).index_axis(Axis(0), 0)).unwrap()).unwrap();
    let item = Item { path, caption: "a cat".into(), repeats: 1, flip: false, prior: false };
    let request = Request { items: &[item], buckets: &Buckets::fixed(vec![[64, 64]]).unwrap() };
    let folder = out.path().join("cache");
    build(&mut pipeline, &request, &folder, |_, _| ()).unwrap();
    let cache = Cache::open(&folder).unwrap();
    assert_eq!(cache.conditions(None).unwrap(), pipeline.avoided(None).unwrap());
    let own = cache.conditions(cache.entries().first()).unwrap();
    assert_eq!(own, pipeline.conditions(Some("A cat ")).unwrap());
    assert_ne!(own, pipeline.avoided(Some("a cat")).unwrap());
    assert_eq!(own["encoder_hidden_states"].shape(), [300, 16]);
    let moments = cache.moments(&cache.entries()[0]).unwrap();
    assert_eq!((moments.mean.dim(), moments.deviation.sum()), ((1, 8, 2, 2), 0.0));
}
