//! How many weights of each layer lie below some thresholds, as an SVG: a bar for each layer.

use crate::Error;
use crate::page::escaped;

/// Shades of one colour, the lightest for the largest threshold.
const SHADES: [&str; 6] = ["#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b"];
const ROW: usize = 16;
const NAME: usize = 560;
const BAR: usize = 560;
const TOP: usize = 64;

/// A layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub total: u64,
    /// Of these, how many lie below each threshold.
    pub below: Vec<u64>,
}

/// Draws layers. Thresholds rise; there are at most six. It is an error when a layer has another number of counts than there are
/// thresholds, or when there is no layer.
pub fn svg(title: &str, thresholds: &[f64], layers: &[Layer]) -> Result<String, Error> {
    if layers.is_empty() || thresholds.is_empty() || thresholds.len() > SHADES.len() {
        return Err(Error::Invalid("a drawing of layers needs a layer and one to six thresholds".into()));
    }
    if let Some(layer) = layers.iter().find(|l| l.below.len() != thresholds.len()) {
        return Err(Error::Invalid(format!("layer {} has {} counts", layer.name, layer.below.len())));
    }
    let (width, height) = (NAME + BAR + 90, TOP + layers.len() * ROW + 24);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"12\" y=\"24\" font-size=\"17\">{}</text>",
        escaped(title)
    );
    let shades: Vec<&str> = SHADES[..thresholds.len()].to_vec();
    for (i, threshold) in thresholds.iter().rev().enumerate() {
        let x = NAME + i * 110;
        out += &format!(
            "<rect x=\"{x}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"44\">|w| &lt; {threshold:.0e}</text>",
            shades[i],
            x + 18
        );
    }
    for percent in [0, 25, 50, 75, 100] {
        let x = NAME + BAR * percent / 100;
        let end = TOP + layers.len() * ROW;
        out += &format!(
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"{TOP}\" y2=\"{end}\" stroke=\"#ddd\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{percent} %</text>",
            end + 16
        );
    }
    for (row, layer) in layers.iter().enumerate() {
        let y = TOP + row * ROW;
        let name: String = layer.name.chars().rev().take(88).collect::<Vec<_>>().into_iter().rev().collect();
        out += &format!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", NAME - 8, y + 12, escaped(&name));
        for (shade, below) in shades.iter().zip(layer.below.iter().rev()) {
            let share = *below as f64 / layer.total.max(1) as f64;
            out += &format!(
                "<rect x=\"{NAME}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{shade}\"/>",
                y + 2,
                share * BAR as f64,
                ROW - 4
            );
        }
        out += &format!("<text x=\"{}\" y=\"{}\">{}</text>", NAME + BAR + 8, y + 12, layer.total);
    }
    Ok(out + "</svg>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_shares() {
        let layer = Layer { name: "a<b".into(), total: 100, below: vec![25, 50] };
        let svg = svg("weights", &[1e-3, 1e-2], std::slice::from_ref(&layer)).unwrap();
        assert!(svg.contains("a&lt;b") && svg.contains("|w| &lt; 1e-3"));
        assert!(svg.contains("width=\"280.0\"") && svg.contains("width=\"140.0\""));
        assert!(super::svg("", &[], std::slice::from_ref(&layer)).is_err());
        assert!(super::svg("", &[1.0], std::slice::from_ref(&layer)).is_err());
        assert!(super::svg("", &[1.0], &[]).is_err());
    }
}
