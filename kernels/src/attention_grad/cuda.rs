//! The gradient of attention on a GPU: the row sums, then a launch for each of the three results.

use crate::attention::{Shape, cuda};
use crate::cuda::{Cuda, Param, THREADS, Task, Work};

pub(super) const FORM: Cuda = Cuda { source: include_str!("kernel.cu"), plan };

fn plan(t: &Task<'_>, w: &mut Work) {
    let (s, kind) = (Shape::of(t), cuda::kind(t));
    let rows = s.images() * s.queries;
    let d = w.scratch(rows * t.dtype("lse").size());
    let (count, width) = (Param::I64(rows as i64), Param::I64(s.value_dim as i64));
    let halves = |result: &str| cuda::halves(t, &["q", "k", "v", "y", "dy", result]);
    let params = vec![t.at("y"), t.at("dy"), d.clone(), count, width, halves("")];
    w.blocks(format!("attention_grad_sums_{kind}"), rows.div_ceil(8), THREADS, params);
    let targets = [("q", s.queries, s.dim), ("k", s.keys, s.dim), ("v", s.keys, s.value_dim)];
    let tensor = cuda::tensor(t, &s);
    for (target, rows, width) in targets {
        let mut params = vec![s.param()];
        params.extend(["q", "k", "v", "mask", "lse", "dy"].map(|name| t.at(name)));
        let result = format!("d{target}");
        params.extend([d.clone(), t.at(&result), t.real(t.float("scale"), "lse"), halves(&result)]);
        if let Some((kernel, of)) = &tensor {
            let grid = [rows.div_ceil(cuda::ROWS), cuda::column_parts(*of), s.images()];
            w.launch(format!("attention_grad_{target}_{kernel}"), grid, 128, params);
        } else {
            let grid = [rows.div_ceil(32), width.div_ceil(64), s.images()];
            w.launch(format!("attention_grad_{target}_{kind}"), grid, 128, params);
        }
    }
}
