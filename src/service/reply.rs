//! Builds a reply of one record or a list of records within a reservation of the memory budget.
//!
//! A record is stored as the encoded message that the reply carries, so no record is decoded.

use super::Reply;
use crate::limits::memory::ReplyBuffer;
use crate::service::codec::push_field;

/// A reply, or only its size where the budget was exhausted.
#[derive(Debug)]
pub struct BuildOutcome {
    /// The size of the encoded message, whether built or not.
    pub size: usize,
    /// The encoded message, with its share of the budget.
    pub reply: Option<Reply>,
    /// The number of damaged records that were left out.
    pub(crate) left_out: u64,
}

/// Builds a response whose field 1 has the records, like every response with images, namespaces, leases or
/// resources: the encoded records, each after its tag and length.
#[derive(Debug)]
pub(crate) struct ReplyBuilder<'b> {
    message: Vec<u8>,
    size: usize,
    buffer: ReplyBuffer<'b>,
    left_out: u64,
}

impl<'b> ReplyBuilder<'b> {
    /// The number of the field with the records.
    const RECORDS: u8 = 1;

    /// An empty response in that buffer.
    pub(crate) fn new(buffer: ReplyBuffer<'b>) -> Self {
        Self { message: Vec::new(), size: 0, buffer, left_out: 0 }
    }

    /// Adds an encoded record, or only its size once the buffer is full.
    pub(crate) fn add(&mut self, record: &[u8]) {
        let head = 1 + protobuf::rt::compute_raw_varint64_size(record.len() as u64) as usize;
        self.size += head + record.len();
        if !self.buffer.try_grow(self.size) {
            self.message = Vec::new();
            return;
        }
        self.message.reserve(head + record.len());
        push_field(&mut self.message, Self::RECORDS, record);
    }

    /// How many bytes the message has so far, whether built or not.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Adds the encoded fields of the response that follow its records.
    pub(crate) fn add_fields(&mut self, fields: &[u8]) {
        self.size += fields.len();
        if self.buffer.try_grow(self.size) {
            self.message.extend_from_slice(fields);
        } else {
            self.message = Vec::new();
        }
    }

    /// Counts a damaged record.
    pub(crate) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// The response.
    pub(crate) fn built(mut self) -> BuildOutcome {
        let fits = self.buffer.try_grow(self.size);
        let reservation = self.buffer.finish(self.size);
        if fits && reservation.is_some() {
            // The buffer grew by doubling, and the reservation is of the size of the message.
            self.message.shrink_to_fit();
        }
        let reply = fits.then_some(Reply { message: self.message, reservation });
        BuildOutcome { size: self.size, reply, left_out: self.left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::images::{Image, ListImagesResponse};
    use protobuf::Message;

    #[test]
    fn a_reply_is_the_message_it_stands_for() {
        let image = |name: usize| Image { name: "x".repeat(name), ..Image::default() };
        let images = [
            image(0),
            image(1),
            image(126),
            image(127),
            image(128),
            image(20_000),
            image(3_000_000),
        ];
        let mut builder = ReplyBuilder::new(ReplyBuffer::fixed(usize::MAX, None));
        for image in &images {
            builder.add(&image.write_to_bytes().unwrap());
        }
        let expected = ListImagesResponse { images: images.into(), ..Default::default() };
        let built = builder.built();
        assert_eq!(built.size as u64, expected.compute_size());
        assert_eq!(
            built.reply.map(|reply| reply.message),
            Some(expected.write_to_bytes().unwrap())
        );
    }

    #[test]
    fn a_reply_that_does_not_fit_is_only_measured() {
        let mut builder = ReplyBuilder::new(ReplyBuffer::fixed(10, None));
        builder.add(&[0; 5]);
        builder.add(&[0; 5]);
        let built = builder.built();
        assert_eq!((built.size, built.reply.is_some()), (14, false));
    }
}
