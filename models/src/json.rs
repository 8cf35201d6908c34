//! JSON as Python writes it, with numbers that are not finite.

use serde::de::DeserializeOwned;

/// What Python's `json` writes for numbers that JSON does not have.
const NOT_FINITE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Reads JSON. Numbers that are not finite are read as null: diffusers writes `"lambda_min_clipped": -Infinity` for DPM-Solver.
pub(crate) fn from_str<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_str(&strict(text))
}

fn strict(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut quoted) = (text, false);
    while let Some(next) = rest.chars().next() {
        if let Some(word) = NOT_FINITE.iter().find(|word| !quoted && rest.starts_with(**word)) {
            out.push_str("null");
            rest = &rest[word.len()..];
            continue;
        }
        quoted ^= next == '"';
        // What is escaped neither ends a string nor escapes.
        let escaped = if quoted && next == '\\' { rest.chars().nth(1) } else { None };
        let taken = next.len_utf8() + escaped.map_or(0, char::len_utf8);
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn numbers_that_are_not_finite_are_null_and_strings_stay() {
        let text = r#"{"a": -Infinity, "b": [NaN,Infinity, 1], "NaN": "-Infinity \" NaN \\", "é": "\\\"", "c": NaN}"#;
        let found: Value = from_str(text).unwrap();
        let wanted = json!({"a": null, "b": [null, null, 1], "NaN": "-Infinity \" NaN \\", "é": "\\\"", "c": null});
        assert_eq!(found, wanted);
        for text in ["", "\"", "\"\\", "{\"a\": Infinit}", "{\"a\": --Infinity}"] {
            assert!(from_str::<Value>(text).is_err(), "{text}");
        }
    }
}
