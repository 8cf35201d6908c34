//! try
#![allow(missing_docs, clippy::all, clippy::unwrap_used)]
use sara_compiler::{compile, import::{Binding, Model}, evaluate::execute, ir::*};
use std::collections::BTreeMap;
fn st(path: &str) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let b = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(b[..8].try_into().unwrap()) as usize;
    let h = String::from_utf8(b[8..8 + n].to_vec()).unwrap();
    let mut out = BTreeMap::new();
    for part in h.split("\"data_offsets\"") .collect::<Vec<_>>().windows(2) {
        let head = part[0]; let tail = part[1];
        let d = head.rfind("\"dtype\"").unwrap();
        let name = { let p = head[..d].rfind("\":").unwrap(); let q = head[..p].rfind('"').unwrap(); head[q + 1..p].to_string() };
        let dt = head[d + 9..].split('"').next().unwrap().to_string();
        let s = &head[head.rfind("\"shape\":[").unwrap() + 9..]; let s = &s[..s.find(']').unwrap()];
        let shape = s.split(',').filter(|x| !x.is_empty()).map(|x| x.trim().parse().unwrap()).collect();
        let o = &tail[tail.find('[').unwrap() + 1..tail.find(']').unwrap()];
        let o: Vec<usize> = o.split(',').map(|x| x.trim().parse().unwrap()).collect();
        out.insert(name, (dt, shape, b[8 + n + o[0]..8 + n + o[1]].to_vec()));
    }
    out
}
fn f(b: &[u8]) -> Vec<f32> { bytemuck::pod_collect_to_vec(b) }
fn main() {
    let stem = std::env::args().nth(1).unwrap();
    let model = std::env::args().nth(2).unwrap_or(format!("{stem}.onnx"));
    let m = Model::open(std::path::Path::new(&model)).unwrap();
    let case = st(&format!("{stem}.case.safetensors"));
    let mut b = Binding::default();
    for (k, v) in &case { if !k.starts_with("expected") && k != "target" { b.shapes.insert(k.clone(), v.1.clone()); } }
    let mut see = |name: &str, g: &Graph| { let mut c: BTreeMap<&str, usize> = BTreeMap::new(); for n in g.program() { *c.entry(g.node(n).op.name()).or_default() += 1; } println!("{name}: {} {c:?}", g.node_count());
        if std::env::var("DUMP").is_ok_and(|d| d == name) { println!("{g}"); } Ok(()) };
    let mut g = match compile::canonical(&m, &b, &mut see) { Ok(g) => g, Err(e) => { println!("{e}"); return; } };
    let loss = sara_compiler::passes::differentiate::add_loss(&mut g).unwrap();
    let el = sara_compiler::select::eligible(&g, &sara_compiler::select::Options { scope: sara_compiler::select::Scope::All, ..Default::default() });
    println!("matrices {} all {}", sara_compiler::select::eligible(&g, &Default::default()).len(), el.len());
    let wanted: Vec<ValueId> = g.values().filter(|(_, v)| matches!(v.def, Def::Weight(w) if el.contains(&w))).map(|v| v.0).collect();
    let gr = sara_compiler::passes::differentiate::gradients(&mut g, loss, &wanted).unwrap();
    for (w, d) in gr { let Def::Weight(i) = g.value(w).def else { continue }; let n = g.weights[i].name.clone(); if let Some(d) = d { g.returns.push((n, d)); } else { println!("no gradient {n}"); } }
    sara_compiler::passes::fold::share(&mut g);
    sara_compiler::ir::verify::verify(&g, "gradients").unwrap();
    see("gradients", &g).unwrap();
    let data = |v: ValueId| match &g.value(v).def { Def::Arg(n) => Some(case[n].2.clone()), Def::Weight(i) => Some(sara_compiler::import::read_weight(&m, &g.weights[*i]).unwrap()), _ => None };
    let out = execute(&g, &[Block::Forward, Block::Backward], data).unwrap();
    let rel = |a: &[f32], b: &[f32]| { let n: f64 = a.iter().zip(b).map(|(a, b)| ((a - b) as f64).powi(2)).sum(); let d: f64 = b.iter().map(|b| (*b as f64).powi(2)).sum(); (n / d).sqrt() };
    let e = f(&case["expected.out_sample"].2); let o = f(&out[&g.returns[0].0]);
    let big = e.iter().fold(0f32, |m, v| m.max(v.abs()));
    println!("forward {:e} loss {} vs {}", e.iter().zip(&o).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max) / big, f(&out["loss"])[0], f(&case["expected.loss"].2)[0]);
    let grads = st(&format!("{stem}.grads.safetensors"));
    let mut worst = (0.0, String::new());
    let mut missing = vec![];
    for (k, v) in &grads { match out.get(k) { None => missing.push(k.clone()), Some(o) => { let r = rel(&f(o), &f(&v.2)); if r > worst.0 || r.is_nan() { worst = (r, k.clone()); } if r > 1e-3 || r.is_nan() { println!("  {k} {r:e}"); } } } }
    println!("{} gradients, worst {:e} {}, missing {missing:?}", grads.len(), worst.0, worst.1);
}
