//! A step of a sequence: one request of Images, and how it may be made simpler.

use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use protobuf::{Message, MessageField};

use super::answer::Answer;
use crate::live::show::{self, short};
use crate::support::Client;

/// The namespace of a step; each sequence has its own, on every server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Space {
    /// A valid one.
    Own(usize),
    /// As long as one may be.
    Longest,
    /// No namespace, or an invalid one.
    Header(Option<String>),
}

impl Space {
    pub fn header(&self, sequence: u64) -> Option<String> {
        match self {
            Self::Own(n) => Some(format!("s{sequence}-{n}")),
            Self::Longest => Some(format!("{:x<76}", format!("s{sequence}-"))),
            Self::Header(header) => header.clone(),
        }
    }
}

#[derive(Clone, PartialEq)]
pub enum Request {
    Get(GetImageRequest),
    List(ListImagesRequest),
    Create(CreateImageRequest),
    Update(UpdateImageRequest),
    Delete(DeleteImageRequest),
}

#[derive(Clone, PartialEq)]
pub struct Step {
    pub space: Space,
    pub request: Request,
}

impl Step {
    pub fn method(&self) -> &'static str {
        match &self.request {
            Request::Get(_) => "Get",
            Request::List(_) => "List",
            Request::Create(_) => "Create",
            Request::Update(_) => "Update",
            Request::Delete(_) => "Delete",
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        match &self.request {
            Request::Get(r) => r.write_to_bytes(),
            Request::List(r) => r.write_to_bytes(),
            Request::Create(r) => r.write_to_bytes(),
            Request::Update(r) => r.write_to_bytes(),
            Request::Delete(r) => r.write_to_bytes(),
        }
        .unwrap()
    }

    pub async fn ask(&self, client: &Client, sequence: u64) -> Answer {
        let space = self.space.header(sequence);
        let reply = client.raw(self.method(), space.as_deref(), self.bytes()).await;
        Answer::new(self.method(), reply)
    }

    /// The image that a Create or an Update carries.
    pub fn image(&self) -> Option<&Image> {
        match &self.request {
            Request::Create(r) => r.image.as_ref(),
            Request::Update(r) => r.image.as_ref(),
            _ => None,
        }
    }

    /// The name it is about, if it is about one.
    pub fn name(&self) -> Option<&str> {
        match &self.request {
            Request::Get(r) => Some(&r.name),
            Request::Delete(r) => Some(&r.name),
            Request::List(_) => None,
            _ => self.image().map(|image| image.name.as_str()),
        }
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let name = match &mut self.request {
            Request::Get(r) => &mut r.name,
            Request::Delete(r) => &mut r.name,
            Request::List(_) => return,
            Request::Create(r) => &mut r.image.mut_or_insert_default().name,
            Request::Update(r) => &mut r.image.mut_or_insert_default().name,
        };
        if name == from {
            *name = to.into();
        }
    }

    /// containerd 2 dies of a request without an image or a target: none may be sent.
    pub fn is_deadly(&self) -> bool {
        matches!(self.request, Request::Create(_) | Request::Update(_))
            && self.image().is_none_or(|image| image.target.is_none())
    }

    /// Steps that hold a little less than this one.
    pub fn simpler(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut with = |change: &dyn Fn(&mut Request)| {
            let mut step = self.clone();
            change(&mut step.request);
            if step != *self {
                found.push(step);
            }
        };
        match &self.request {
            Request::Get(_) => {}
            Request::List(r) => {
                for at in 0..r.filters.len() {
                    with(&|r| {
                        if let Request::List(r) = r {
                            drop(r.filters.remove(at))
                        }
                    });
                    for shorter in shorter(&r.filters[at]) {
                        with(&|r| {
                            if let Request::List(r) = r {
                                r.filters[at] = shorter.clone()
                            }
                        });
                    }
                }
            }
            Request::Create(r) => {
                with(&|r| {
                    if let Request::Create(r) = r {
                        r.source_date_epoch.take();
                    }
                });
                for image in simpler_images(&r.image) {
                    with(&|r| {
                        if let Request::Create(r) = r {
                            r.image = field(&image)
                        }
                    });
                }
            }
            Request::Update(r) => {
                with(&|r| {
                    if let Request::Update(r) = r {
                        r.source_date_epoch.take();
                    }
                });
                for at in 0..r.update_mask.paths.len() {
                    with(&|r| {
                        if let Request::Update(r) = r {
                            r.update_mask.as_mut().unwrap().paths.remove(at);
                        }
                    });
                }
                for image in simpler_images(&r.image) {
                    with(&|r| {
                        if let Request::Update(r) = r {
                            r.image = field(&image)
                        }
                    });
                }
            }
            Request::Delete(_) => {
                with(&|r| {
                    if let Request::Delete(r) = r {
                        r.sync = false
                    }
                });
                with(&|r| {
                    if let Request::Delete(r) = r {
                        r.target.take();
                    }
                });
            }
        }
        found
    }
}

fn field(image: &Image) -> MessageField<Image> {
    MessageField::some(image.clone())
}

fn simpler_images(image: &Image) -> Vec<Image> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut Image)| {
        let mut simpler = image.clone();
        change(&mut simpler);
        if simpler != *image {
            found.push(simpler);
        }
    };
    with(&|i| i.labels.clear());
    with(&|i| i.target.as_mut().unwrap().annotations.clear());
    for key in image.labels.keys() {
        with(&|i| drop(i.labels.remove(key)));
    }
    for key in image.target.annotations.keys() {
        with(&|i| drop(i.target.as_mut().unwrap().annotations.remove(key)));
    }
    with(&|i| i.target.as_mut().unwrap().digest = crate::support::DIGEST.into());
    with(&|i| i.target.as_mut().unwrap().size = 1);
    with(&|i| i.target.as_mut().unwrap().media_type = "m".into());
    found
}

/// `text` without its first or second half, or without one character.
fn shorter(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    if chars.len() > 3 {
        let (one, two) = chars.split_at(chars.len() / 2);
        found.extend([one.iter().collect(), two.iter().collect()]);
    }
    for at in 0..chars.len() {
        found.push(chars.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, c)| c).collect());
    }
    found
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {:?}: ", self.method(), self.space)?;
        match &self.request {
            Request::Get(r) => write!(f, "{}", short(&r.name)),
            Request::List(r) => write!(f, "{}", show::list(&r.filters)),
            Request::Create(r) => {
                write!(f, "{}{}", show::image(&r.image), show::epoch(&r.source_date_epoch))
            }
            Request::Update(r) => write!(
                f,
                "{} mask {}{}",
                show::image(&r.image),
                show::list(&r.update_mask.paths),
                show::epoch(&r.source_date_epoch)
            ),
            Request::Delete(r) => {
                write!(f, "{}{}", short(&r.name), if r.sync { " sync" } else { "" })?;
                r.target.as_ref().map_or(Ok(()), |t| write!(f, " target {}", short(&t.digest)))
            }
        }
    }
}
