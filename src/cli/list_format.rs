//! The line of `ls --format`: text with fields in braces.
//!
//! `{{` and `}}` are braces, `\t` is a tab, `\n` a line end and `\\` a backslash, as shells pass these to the program as
//! they are written.

use std::fmt::Write;
use std::str::FromStr;

use go_compat::quote::quote;

use super::text::visible;
use crate::admin::image_json::ImageJson;

/// One field of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Namespace,
    Name,
    MediaType,
    Digest,
    Size,
    CreatedAt,
    UpdatedAt,
    Labels,
    Label(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

/// A parsed format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListFormat {
    pieces: Vec<Piece>,
}

/// The fields, for an error.
const FIELDS: &str = "{namespace}, {name}, {mediaType}, {digest}, {size}, {createdAt}, {updatedAt}, {labels} \
                      and {labels.KEY}";

/// The escape of each character that a format cannot have as it is.
const SIGNS: [(&str, char); 5] =
    [("{{", '{'), ("}}", '}'), ("\\t", '\t'), ("\\n", '\n'), ("\\\\", '\\')];

/// Whether the text behind `{{` is that of docker's templates, as in `{{.Name}}` and `{{json .}}`. A text that begins
/// with `{.` can therefore not be printed: a template is much likelier.
fn is_template(behind: &str) -> bool {
    let word = behind.trim_start();
    word.strip_prefix("json").unwrap_or(word).trim_start().starts_with('.')
}

impl FromStr for ListFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the text is empty: give fields, such as {name}".into());
        }
        let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(c) = rest.chars().next() {
            let sign = |(written, sign): &(&str, char)| Some((*sign, rest.strip_prefix(written)?));
            if let Some((sign, after)) = SIGNS.iter().find_map(sign) {
                if sign == '{' && is_template(after) {
                    return Err(format!(
                        "{} has a field of a Go template: write {{name}} for {{{{.Name}}}}; the fields are \
                         {FIELDS}",
                        quote(text)
                    ));
                }
                plain.push(sign);
                rest = after;
            } else if let Some(behind) = rest.strip_prefix('{') {
                let end = || {
                    format!(
                        "a \"{{\" in {} has no \"}}\": add it, or write {{{{ for the brace itself",
                        quote(text)
                    )
                };
                let (field, after) = behind.split_once('}').ok_or_else(end)?;
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(Piece::Field(field.parse()?));
                rest = after;
            } else {
                plain.push(c);
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
        }
        pieces.push(Piece::Text(plain));
        Ok(Self { pieces })
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "namespace" => Self::Namespace,
            "name" => Self::Name,
            "mediaType" => Self::MediaType,
            "digest" => Self::Digest,
            "size" => Self::Size,
            "createdAt" => Self::CreatedAt,
            "updatedAt" => Self::UpdatedAt,
            "labels" => Self::Labels,
            _ => match name.strip_prefix("labels.") {
                Some(key) if !key.is_empty() => Self::Label(key.to_owned()),
                _ => {
                    return Err(format!(
                        "there is no field {}: the fields are {FIELDS}",
                        quote(name)
                    ));
                }
            },
        })
    }
}

impl ListFormat {
    /// Returns the line of an image. Texts of the image are escaped; an absent one is empty.
    pub(crate) fn line(&self, image: &ImageJson) -> String {
        let mut line = String::new();
        for piece in &self.pieces {
            // Writing to a string cannot fail.
            let _ = match piece {
                Piece::Text(text) => write!(line, "{text}"),
                Piece::Field(field) => write!(line, "{}", field.of(image)),
            };
        }
        line
    }
}

impl Field {
    fn of(&self, image: &ImageJson) -> String {
        let text =
            |text: &str| if text.is_empty() { String::new() } else { visible(text).into_owned() };
        let target = &image.target;
        match self {
            Self::Namespace => image.namespace.clone(),
            Self::Name => text(&image.name),
            Self::MediaType => text(&target.media_type),
            Self::Digest => text(&target.digest),
            Self::Size => target.size.to_string(),
            Self::CreatedAt => image.created_at.map(|at| at.to_string()).unwrap_or_default(),
            Self::UpdatedAt => image.updated_at.map(|at| at.to_string()).unwrap_or_default(),
            Self::Labels => {
                let labels = image.labels.iter().map(|(key, value)| format!("{key}={value}"));
                text(&labels.collect::<Vec<_>>().join(","))
            }
            Self::Label(key) => image.labels.get(key).map(|value| text(value)).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::descriptor::Descriptor;
    use crate::api::images::Image;
    use crate::model::Namespace;

    #[test]
    fn fields_are_filled_and_escaped() {
        let image = Image {
            name: "a\u{1b}:1".into(),
            target: Some(Descriptor { digest: "sha256:ab".into(), size: 7, ..Default::default() })
                .into(),
            labels: [("stage".to_owned(), "live".to_owned())].into(),
            ..Image::default()
        };
        let image = ImageJson::new(&Namespace::parse("n").unwrap(), image);
        let line = |format: &str| ListFormat::from_str(format).unwrap().line(&image);
        assert_eq!(line("{namespace}/{name} {digest}\t{size}"), "n/\"a\\x1b:1\" sha256:ab\t7");
        assert_eq!(line("{labels.stage}|{labels.none}|{labels}|{createdAt}"), "live||stage=live|");
        assert_eq!(line("plain }"), "plain }");
        assert_eq!(line(r"{namespace}\t{size}\n\\t\d"), "n\t7\n\\t\\d");
        assert_eq!(line(r#"{{"size": {size}, "of": {{}}}}"#), r#"{"size": 7, "of": {}}"#);
        assert_eq!(line("{{{size}}}"), "{7}");
    }

    #[test]
    fn a_wrong_format_says_what_is_there() {
        for (format, says) in [
            ("{nmae}", "no field \"nmae\": the fields are {namespace}"),
            ("{labels.}", "no field \"labels.\""),
            ("{}", "no field \"\""),
            ("x {name", "has no \"}\""),
            ("{name} {", "or write {{ for the brace itself"),
            ("{{.Name}}\t{{.Size}}", "write {name} for {{.Name}}; the fields are {namespace}"),
            ("{{ .Name }}", "write {name}"),
            ("{{json .}}", "write {name}"),
        ] {
            let error = ListFormat::from_str(format).unwrap_err();
            assert!(error.contains(says), "{format}: {error}");
        }
    }
}
