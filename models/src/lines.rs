//! Several series over the steps of a training, or over something else that is counted, as an SVG.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::Error;
use crate::axis::Axis;
use crate::curve::{SIZE, failed, finite, span, thinned};

/// Colours that people of any colour vision tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const GRID: RGBColor = RGBColor(228, 228, 228);
const INK: RGBColor = RGBColor(60, 60, 60);

/// Lines.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    /// What the lines run over; stands at the horizontal axis.
    pub over: &'a str,
    /// What the values are; stands at their axis.
    pub value: &'a str,
    /// Name, and points from left to right. Values that are not finite are left out, and so are series without any.
    pub series: &'a [(&'a str, Vec<(u64, f64)>)],
}

impl Lines<'_> {
    /// Draws them. The value axis is logarithmic when the values are above 0 and span more than a factor of 20. It is an error when
    /// no value is finite.
    pub fn svg(&self) -> Result<String, Error> {
        let all: Vec<(&str, Vec<(f64, f64)>)> =
            self.series.iter().map(|(name, points)| (*name, finite(points))).filter(|s| !s.1.is_empty()).collect();
        if all.is_empty() {
            return Err(Error::Invalid(format!("a plot of {} needs a finite value", self.value)));
        }
        let points = || all.iter().flat_map(|s| &s.1);
        let axes = (Axis::whole(span(points().map(|p| p.0))), Axis::values(span(points().map(|p| p.1))));
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        self.draw(&area, axes, &all).map_err(failed)?;
        area.present().map_err(failed)?;
        drop(area);
        Ok(svg)
    }

    fn draw<'b, B: DrawingBackend + 'b>(
        &self,
        area: &DrawingArea<B, Shift>,
        (steps, values): (Axis, Axis),
        all: &[(&str, Vec<(f64, f64)>)],
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let text = |size: i32| ("sans-serif", size).into_font().color(&INK);
        let mut builder = ChartBuilder::on(area);
        builder.margin(16).margin_right(28).x_label_area_size(46).y_label_area_size(84);
        let mut chart = builder.build_cartesian_2d(steps, values)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(self.over).y_desc(self.value).bold_line_style(GRID).light_line_style(TRANSPARENT).axis_style(INK);
        mesh.label_style(text(15)).axis_desc_style(text(17)).draw()?;
        for ((name, points), colour) in all.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            let line = chart.draw_series(LineSeries::new(thinned(points), style))?;
            line.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
        }
        if all.len() > 1 {
            let mut legend = chart.configure_series_labels();
            legend.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.85)).border_style(GRID);
            legend.margin(12).label_font(text(15)).draw()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_series_are_drawn_and_named() {
        let series =
            [("first", vec![(1, 0.5), (2, 0.25)]), ("second", vec![(1, f64::NAN), (2, 0.1)]), ("nowhere", vec![])];
        let svg = Lines { over: "step", value: "loss < 1", series: &series }.svg().unwrap();
        assert!(svg.matches("<polyline").count() >= 2);
        assert!(
            svg.contains("first") && svg.contains("second") && !svg.contains("nowhere") && svg.contains("loss &lt; 1")
        );
        assert!(Lines { over: "step", value: "x", series: &series[2..] }.svg().is_err());
    }
}
