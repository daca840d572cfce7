//! Names for a rescue from a file, which [`from_blobs`](super::from_blobs) writes and a person edits.

use std::path::Path;

use super::wanted::{Wanted, WantedImage};
use crate::admin::file;
use crate::api::descriptor::Descriptor;
use crate::api::images::Image;
use crate::model::{Error, Namespace, Result, image};

/// The most bytes of the file.
const MAX_BYTES: u64 = 256 << 20;

/// Reads the chosen images.
///
/// # Errors
/// `InvalidArgument` with the line that is wrong.
pub(crate) fn read(path: &Path) -> Result<Wanted> {
    let Some((_, text)) = file::read_text(path, MAX_BYTES)? else {
        return Err(Error::NotFound(format!(
            "{} does not exist: `lmdb-images rescue --from-blobs DIR` prints such a list",
            path.display()
        )));
    };
    parse(&text).map_err(|e| Error::InvalidArgument(format!("{}, {e}", path.display())))
}

fn parse(text: &str) -> Result<Wanted, String> {
    let mut wanted = Wanted::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let in_line = |why: String| format!("line {}: {why}", number + 1);
        let (namespace, image) = parse_line(line).map_err(in_line)?;
        let images = &mut wanted.entry(namespace).or_default().images;
        if images.iter().any(|known| known.image.name == image.name) {
            return Err(in_line(format!("{:?} is chosen twice: put a # before one", image.name)));
        }
        images.push(WantedImage { image, is_set_aside: false });
    }
    if wanted.is_empty() {
        return Err("no image is chosen: remove the # before some lines".into());
    }
    Ok(wanted)
}

fn parse_line(line: &str) -> Result<(Namespace, Image), String> {
    let fields: Vec<_> = line.split('\t').collect();
    let [namespace, name, digest, media_type, size] = fields.as_slice() else {
        return Err(format!(
            "{} fields instead of five (namespace, name, digest, media type, bytes), separated by tabs",
            fields.len()
        ));
    };
    let namespace = Namespace::parse(namespace).map_err(|e| e.to_string())?;
    let size = size.parse().map_err(|e| format!("{size:?} is no number of bytes: {e}"))?;
    let target = Descriptor {
        digest: (*digest).to_owned(),
        media_type: (*media_type).to_owned(),
        size,
        ..Descriptor::default()
    };
    if name.is_empty() {
        return Err("the name is empty: give the image a name".to_owned());
    }
    let image = Image { name: (*name).to_owned(), target: Some(target).into(), ..Image::default() };
    image::validate(&image).map_err(|e| e.to_string())?;
    Ok((namespace, image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_wrong_is_named() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let line = |namespace: &str, name: &str, size: &str| {
            format!("{namespace}\t{name}\t{digest}\tapplication/x\t{size}\n")
        };
        let good = line("n", "a", "3");
        let wanted = parse(&format!("# a comment\n\n{good}#{good}")).unwrap();
        assert_eq!(wanted.values().next().unwrap().images[0].image.target.size, 3);
        for (text, part) in [
            (String::new(), "no image is chosen"),
            (format!("#{good}"), "no image is chosen"),
            (format!("{good}{good}"), "line 2: \"a\" is chosen twice"),
            ("n a\n".into(), "line 1: 1 fields instead of five"),
            (line("n", "a", "x"), "line 1: \"x\" is no number of bytes"),
            (line("-", "a", "3"), "line 1: "),
            (line("n", "", "3"), "line 1: "),
            (good.replace("sha256", "sha25"), "line 1: "),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }
}
