//! Branches, loops and scans whose conditions are known.

use super::*;
use common::{declare, graph, node};
use onnx_protobuf::{GraphProto, ValueInfoProto};

pub(super) fn add(cases: &mut Vec<Case>) {
    let then = graph(vec![node("Relu", &["x"], &["a"], &[])], vec![], vec![], &["a"]);
    let other = graph(vec![node("Neg", &["x"], &["b"], &[])], vec![], vec![], &["b"]);
    for opset in [11, 13, 19] {
        for taken in [0.0, 1.0] {
            let attrs = [("then_branch", Value::Graph(then.clone())), ("else_branch", Value::Graph(other.clone()))];
            let branch = node("If", &["c"], &["y"], &attrs);
            let operands = vec![("c", t(Bool, &[], &[taken]).c()), ("x", f(&[2, 3]))];
            cases.push(Case::chain(&format!("If {taken}"), opset, operands, vec![branch]));
        }
    }
    for opset in [11, 13, 19] {
        for (rounds, stop) in [(3, false), (5, true)] {
            let attrs = [("body", Value::Graph(body(stop)))];
            let round = node("Loop", &["m", "go", "start"], &["last", "all"], &attrs);
            let operands = vec![
                ("m", t(I64, &[], &[f64::from(rounds)]).c()),
                ("go", t(Bool, &[], &[1.0]).c()),
                ("start", f(&[2])),
                ("step", g(&[2])),
            ];
            cases.push(Case::chain(&format!("Loop {rounds} {stop}"), opset, operands, vec![round]));
        }
    }
    for opset in [9, 11, 16] {
        for (axis, backwards) in [(0, 0), (0, 1), (1, 0)] {
            let attrs = [
                ("body", Value::Graph(running_sum())),
                ("num_scan_inputs", int(1)),
                ("scan_input_axes", ints(&[axis])),
                ("scan_input_directions", ints(&[backwards])),
                ("scan_output_directions", ints(&[backwards])),
            ];
            let scan = node("Scan", &["start", "x"], &["sum", "all"], &attrs);
            let operands = vec![("start", f(&[3])), ("x", f(&[3, 3]))];
            cases.push(Case::chain(&format!("Scan {axis} {backwards}"), opset, operands, vec![scan]));
        }
    }
}

fn info(name: &str, dtype: OracleType, shape: &[usize]) -> ValueInfoProto {
    declare(name, dtype, &shape.iter().map(|d| Dim::Fixed(*d)).collect::<Vec<_>>())
}

/// Declares the results of a body, whose types ONNX Runtime wants to know.
fn typed(mut graph: GraphProto, outputs: Vec<ValueInfoProto>) -> GraphProto {
    graph.output = outputs;
    graph
}

/// Adds `step` of the graph around it, and ends after three rounds if it is to stop.
fn body(stop: bool) -> GraphProto {
    let limit = t(I64, &[], &[2.0]).tensor.map(|t| t.proto("limit"));
    let go = match stop {
        true => node("Less", &["i", "limit"], &["more"], &[]),
        false => node("Identity", &["go"], &["more"], &[]),
    };
    let nodes = vec![go, node("Add", &["v", "step"], &["next"], &[]), node("Mul", &["next", "next"], &["square"], &[])];
    let inputs = vec![info("i", I64, &[]), info("go", Bool, &[]), info("v", F32, &[2])];
    let outputs = vec![info("more", Bool, &[]), info("next", F32, &[2]), info("square", F32, &[2])];
    typed(graph(nodes, inputs, limit.into_iter().collect(), &[]), outputs)
}

fn running_sum() -> GraphProto {
    let nodes = vec![node("Add", &["s", "row"], &["next"], &[]), node("Identity", &["next"], &["shown"], &[])];
    let inputs = vec![info("s", F32, &[3]), info("row", F32, &[3])];
    typed(graph(nodes, inputs, vec![], &[]), vec![info("next", F32, &[3]), info("shown", F32, &[3])])
}
