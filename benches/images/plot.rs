//! Time against the size of the store, both in powers of ten, as SVG.
//!
//! The background stays clear and every colour is of middling lightness, so that the drawing can be
//! read on white and on black.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Result;
use super::report::{Unit, thousands};

/// Times in seconds by numbers of images.
pub struct Curve<'a> {
    /// What is written at its end.
    pub name: &'a str,
    /// In order of size.
    pub points: &'a [(u32, f64)],
}

const SIZE: (u32, u32) = (760, 430);
const GREY: RGBColor = RGBColor(125, 133, 144);
const COLOURS: [RGBColor; 2] = [RGBColor(219, 109, 40), RGBColor(56, 132, 230)];

/// Draws the curves.
pub fn draw(title: &str, curves: &[Curve<'_>]) -> Result<String> {
    let mut svg = String::new();
    draw_into(&mut svg, title, curves).map_err(|e| format!("drawing: {e}"))?;
    Ok(svg)
}

fn draw_into(
    svg: &mut String,
    title: &str,
    curves: &[Curve<'_>],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let points = || curves.iter().flat_map(|curve| curve.points);
    let power = |value: f64, up: bool| {
        let exponent = value.log10();
        10f64.powf(if up { (exponent + 0.05).ceil() } else { (exponent - 0.05).floor() })
    };
    let least = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let most = points().map(|p| p.1).fold(0.0, f64::max);
    let largest = points().map(|p| p.0).max().unwrap_or_default();
    // Only powers of ten are lettered: between them letters would lie on each other.
    let round = |value: f64| (value.log10() - value.log10().round()).abs() < 1e-6;
    let images = |value: &f64| if round(*value) { thousands(*value) } else { String::new() };
    let seconds = |value: &f64| Unit::Time.show(*value).replace(".00 ", " ").replace(".0 ", " ");

    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let text = |size: f64| ("sans-serif", size).into_font().color(&GREY);
    let root = root.margin(8, 0, 0, 0).titled(title, text(17.0))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .margin_right(130)
        .x_label_area_size(48)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (800f64..f64::from(largest) * 1.2).log_scale(),
            (power(least, false) * 0.99..power(most, true) * 1.01).log_scale(),
        )?;
    chart
        .configure_mesh()
        .bold_line_style(GREY.mix(0.25))
        .light_line_style(TRANSPARENT)
        .axis_style(GREY)
        .label_style(text(14.0))
        .axis_desc_style(text(14.0))
        .x_desc("images in the store")
        .x_label_formatter(&images)
        .y_label_formatter(&seconds)
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let points = || curve.points.iter().map(|(images, time)| (f64::from(*images), *time));
        chart.draw_series(LineSeries::new(points(), colour.stroke_width(3)))?;
        chart.draw_series(points().map(|point| Circle::new(point, 4, colour.filled())))?;
        if let Some(end) = points().next_back() {
            let style = ("sans-serif", 15)
                .into_font()
                .color(&colour)
                .pos(Pos::new(HPos::Left, VPos::Center));
            chart.draw_series([
                EmptyElement::at(end) + Text::new(curve.name.to_owned(), (10, 0), style)
            ])?;
        }
    }
    root.present()?;
    Ok(())
}
