//! What a shell is offered for the line that is being written: namespaces and names of images of its store.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap_complete::engine::CompletionCandidate;

use super::paths::default_root;
use super::settings_file::File;
use crate::admin::ls::{self, Page};
use crate::model::printable::is_visible;
use crate::model::{Error, Namespace, Result};
use crate::store::{ReadOnlyStore, Records};

/// Names that are offered at most: more than a terminal shows.
const MAX_CANDIDATES: usize = 1000;

/// Namespaces of the store that begin as `current`.
pub(crate) fn namespaces(current: &OsStr) -> Vec<CompletionCandidate> {
    let found =
        || ReadOnlyStore::open(&Line::read().store()?)?.read(|snapshot| snapshot.namespaces());
    let names = found().unwrap_or_default();
    candidates(current, names.iter().map(|namespace| namespace.as_str()))
}

/// Names of images that begin as `current`, in the namespace of the line, else in that of CONTAINERD_NAMESPACE.
pub(crate) fn images(current: &OsStr) -> Vec<CompletionCandidate> {
    let line = Line::read();
    let by_variable = || std::env::var("CONTAINERD_NAMESPACE").unwrap_or_else(|_| "default".into());
    let namespace = line.namespaces().pop().unwrap_or_else(by_variable);
    offer(current, &line, &[namespace])
}

/// Names of images that begin as `current`, in the namespaces of the line, else in all.
pub(crate) fn images_anywhere(current: &OsStr) -> Vec<CompletionCandidate> {
    let line = Line::read();
    offer(current, &line, &line.namespaces())
}

/// Names of images in these namespaces, or in all if there are none. No name is offered if one cannot be read: an
/// error would stand in the line.
fn offer(current: &OsStr, line: &Line, namespaces: &[String]) -> Vec<CompletionCandidate> {
    let found = || -> Result<Vec<String>> {
        let prefix = current.to_str().unwrap_or_default();
        let filter = format!("name~={}", go_compat::quote::quote(format!("^{}", literal(prefix))));
        let page = Page { limit: Some(MAX_CANDIDATES), ..Page::default() };
        let store = line.store()?;
        let mut names = Vec::new();
        let mut list = |namespace: Option<&Namespace>| {
            ls::list(&store, namespace, vec![filter.clone()], &page)?.for_each(|image| {
                names.push(image.name);
                Ok::<_, Error>(())
            })
        };
        match namespaces {
            [] => list(None)?,
            _ => namespaces.iter().try_for_each(|name| list(Some(&Namespace::parse(name)?)))?,
        }
        names.sort();
        names.dedup();
        Ok(names)
    };
    candidates(current, found().unwrap_or_default().iter().map(String::as_str))
}

/// A text as a regular expression that matches it alone.
fn literal(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let is_plain =
            c.is_ascii_alphanumeric() || !c.is_ascii() || matches!(c, '/' | ':' | '-' | '_' | '@');
        (!is_plain).then_some('\\').into_iter().chain([c])
    });
    escaped.collect()
}

/// The words of the line that is being written. clap does not parse it for a completer.
struct Line {
    words: Vec<String>,
}

impl Line {
    /// The line of the shell, which passes it after `--`.
    fn read() -> Self {
        Self::of(std::env::args_os().skip_while(|word| word != "--").skip(1))
    }

    /// A line. Its first word is the program; after a `--` there are no flags.
    fn of(words: impl Iterator<Item = OsString>) -> Self {
        let words = words.skip(1).map(|word| word.to_string_lossy().into_owned());
        Self { words: words.take_while(|word| word != "--").collect() }
    }

    /// The values of a flag as they are written, in any form: `-n x`, `-nx`, `-n=x`, `--namespace x` and `--namespace=x`.
    fn values(&self, short: Option<&str>, long: &str) -> Vec<&str> {
        let (mut values, mut words) = (Vec::new(), self.words.iter());
        while let Some(word) = words.next() {
            let value = match (word.strip_prefix(long), short.and_then(|s| word.strip_prefix(s))) {
                (Some(""), _) | (_, Some("")) => words.next().map(String::as_str),
                (Some(rest), _) => rest.strip_prefix('='),
                (_, Some(rest)) => Some(rest.strip_prefix('=').unwrap_or(rest)),
                (None, None) => None,
            };
            values.extend(value);
        }
        values
    }

    fn namespaces(&self) -> Vec<String> {
        self.values(Some("-n"), "--namespace").into_iter().map(text).collect()
    }

    /// The folder of the store, from the line, the variables, the file of settings or the default.
    fn store(&self) -> Result<PathBuf> {
        let variable = || std::env::var_os("LMDB_IMAGES_ROOT").map(PathBuf::from);
        match self.values(None, "--root").pop().map(path).or_else(variable) {
            Some(root) => Ok(root),
            None => {
                let file = File::named(self.values(None, "--config").pop().map(path));
                Ok(file.read()?.root.unwrap_or_else(default_root))
            }
        }
    }
}

/// The text between the quotes of a word that is quoted as a whole.
fn between_quotes(word: &str) -> Option<&str> {
    let inside = |quote: char| word.strip_prefix(quote)?.strip_suffix(quote);
    inside('\'').or_else(|| inside('"'))
}

/// A word without its quotes, or without its backslashes. Shells pass the words of the line as they are written.
fn text(word: &str) -> String {
    between_quotes(word).map_or_else(|| unescaped(word), str::to_owned)
}

/// A word without quotes, where a backslash stands before a character that the shell must not obey.
fn unescaped(word: &str) -> String {
    let mut chars = word.chars();
    let next = || match chars.next()? {
        '\\' => chars.next().or(Some('\\')),
        c => Some(c),
    };
    std::iter::from_fn(next).collect()
}

/// A path as it is written in a shell, where ~ is the home folder if it is not quoted.
fn path(word: &str) -> PathBuf {
    match word.strip_prefix("~/").zip(std::env::home_dir()) {
        Some((below, home)) => home.join(unescaped(below)),
        None => text(word).into(),
    }
}

/// Those that begin as `current`. A name with a character that a shell would obey is not offered.
fn candidates<'n>(
    current: &OsStr,
    names: impl Iterator<Item = &'n str>,
) -> Vec<CompletionCandidate> {
    let prefix = current.to_str().unwrap_or_default();
    let is_safe = |name: &&str| {
        name.chars().all(|c| is_visible(c) && !" \t'\"\\$`;&|<>()*?[]{}!".contains(c))
    };
    let fitting = names.filter(|name| name.starts_with(prefix)).filter(is_safe);
    fitting.take(MAX_CANDIDATES).map(CompletionCandidate::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_shell_takes_as_they_are_are_offered() {
        let names = [
            "docker.io/a:1",
            "docker.io/$(reboot):1",
            "docker.io/b c",
            "docker.io/\u{1b}",
            "quay.io/a:1",
        ];
        let found = candidates(OsStr::new("docker"), names.into_iter());
        let found: Vec<_> = found.iter().map(|found| found.get_value().to_owned()).collect();
        assert_eq!(found, ["docker.io/a:1"]);
    }

    #[test]
    fn a_text_matches_itself_alone() {
        assert_eq!(literal("docker.io/a+b:1"), r"docker\.io/a\+b:1");
    }

    #[test]
    fn flags_of_a_line_are_found_in_each_form() {
        for (line, values) in [
            ("l inspect -n x d", &["x"][..]),
            ("l inspect -nx d", &["x"]),
            ("l inspect -n=x d", &["x"]),
            ("l inspect d --namespace x", &["x"]),
            ("l history --namespace=x -n y", &["x", "y"]),
            ("l inspect --namespaces x --name=x", &[]),
            ("l inspect -- -n x", &[]),
            ("l inspect -n", &[]),
            ("l inspect -n 'x' d", &["x"]),
            ("l inspect --namespace=\"x\" d", &["x"]),
            ("l inspect -n 'x", &["'x"]),
        ] {
            let line = Line::of(line.split(' ').map(OsString::from));
            assert_eq!(line.namespaces(), values);
        }
        let line = Line::of(["l", "--root", "/x", "--root=/y"].map(OsString::from).into_iter());
        assert_eq!(line.store().unwrap(), PathBuf::from("/y"));
        let line = Line::of(["l", "--root", "'/x y'"].map(OsString::from).into_iter());
        assert_eq!(line.store().unwrap(), PathBuf::from("/x y"));
    }

    #[test]
    fn a_path_is_read_as_a_shell_reads_it() {
        let home = std::env::home_dir().unwrap();
        for (word, expected) in [
            (r"/x\ y/\'z\\w", PathBuf::from(r"/x y/'z\w")),
            (r"/x\", PathBuf::from(r"/x\")),
            (r"'/x\ y'", PathBuf::from(r"/x\ y")),
            (r"~/x\ y", home.join("x y")),
            ("'~/x'", PathBuf::from("~/x")),
            ("\"~/x\"", PathBuf::from("~/x")),
            (r"\~/x", PathBuf::from("~/x")),
        ] {
            assert_eq!(path(word), expected, "{word}");
        }
    }
}
