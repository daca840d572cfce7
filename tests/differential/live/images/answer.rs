//! What a server answered, in the form in which answers are compared.

use lmdb_images::api::images::{
    CreateImageResponse, GetImageResponse, Image, ListImagesResponse, UpdateImageResponse,
};
use lmdb_images::transport::status;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};

use crate::live::show::{self, short};
use crate::support::Failed;

#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    Failed(Failed),
    Done,
    Image(Option<Record>),
    Images(Vec<Record>),
}

/// An image; its times as far as they can be equal on two servers.
#[derive(Clone, PartialEq)]
pub struct Record {
    pub image: Image,
    pub times: String,
}

impl Eq for Record {}

impl Answer {
    pub fn new(method: &str, reply: Result<Vec<u8>, Failed>) -> Self {
        let bytes = match reply {
            // Ours cuts a sentence that is too long for a header; containerd's is cut here.
            Err(Failed { code, message }) => {
                return Self::Failed(Failed { code, message: status::cut(&message).into_owned() });
            }
            Ok(bytes) => bytes,
        };
        let one = |image: MessageField<Image>| Self::Image(image.into_option().map(Record::new));
        match method {
            "Get" => one(GetImageResponse::parse_from_bytes(&bytes).unwrap().image),
            "Create" => one(CreateImageResponse::parse_from_bytes(&bytes).unwrap().image),
            "Update" => one(UpdateImageResponse::parse_from_bytes(&bytes).unwrap().image),
            "List" => {
                let images = ListImagesResponse::parse_from_bytes(&bytes).unwrap().images;
                Self::Images(images.into_iter().map(Record::new).collect())
            }
            _ => {
                assert!(bytes.is_empty(), "{method} answered {bytes:?}");
                Self::Done
            }
        }
    }

    pub fn failed(code: tonic::Code, message: impl Into<String>) -> Self {
        Self::Failed(Failed {
            code: code as i32,
            message: status::cut(&message.into()).into_owned(),
        })
    }

    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Failed(failed) => Some(&failed.message),
            _ => None,
        }
    }

    /// What kind of answer, for telling differences apart: the code, and the words of the sentence
    /// that no request can choose.
    pub fn kind(&self) -> String {
        let failed = match self {
            Self::Done => return "done".into(),
            Self::Image(_) => return "image".into(),
            Self::Images(_) => return "images".into(),
            Self::Failed(failed) => failed,
        };
        let message = &failed.message;
        // The reason a filter does not parse stands behind the filter.
        let framed = message.rsplit_once(" >|").and_then(|(_, end)| end.split_once("]: "));
        let from = framed.map_or(message.as_str(), |(_, reason)| reason);
        let fixed = from.split(|c: char| c == '"' || c == ':' || c.is_ascii_digit()).next();
        let head: Vec<&str> = fixed.unwrap_or("").split(' ').take(4).collect();
        let tail = message.rsplit(": ").next().unwrap_or("");
        let code = tonic::Code::from_i32(failed.code);
        let filters = if framed.is_some() { "filters … " } else { "" };
        format!("{code:?} {filters}{} … {}", head.join(" "), short(tail))
    }
}

impl Record {
    fn new(mut image: Image) -> Self {
        let (created, updated) = (image.created_at.take(), image.updated_at.take());
        let at = |t: &Option<Timestamp>| t.as_ref().map(|t| (t.seconds, t.nanos));
        let now = Timestamp::now().seconds;
        let shown = |t| match t {
            Some((seconds, _)) if now.abs_diff(seconds) < 3600 => "now".to_owned(),
            Some((seconds, nanos)) => format!("{seconds}s{nanos}"),
            None => "unset".to_owned(),
        };
        let (created, updated) = (at(&created), at(&updated));
        let order = match created.cmp(&updated) {
            std::cmp::Ordering::Less => "<",
            std::cmp::Ordering::Equal => "=",
            std::cmp::Ordering::Greater => ">",
        };
        let times = format!("{} {order} {}", shown(created), shown(updated));
        Self { image, times }
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", show::image(&self.image), self.times)
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(failed) => {
                let code = tonic::Code::from_i32(failed.code);
                let message = &failed.message;
                // Where sentences differ must stay to be seen.
                if message.len() < 1000 {
                    write!(f, "{code:?} {message:?}")
                } else {
                    write!(f, "{code:?} {}", short(message))
                }
            }
            Self::Done => write!(f, "done"),
            Self::Image(image) => write!(f, "{image:?}"),
            Self::Images(images) => write!(f, "{} images {images:?}", images.len()),
        }
    }
}
