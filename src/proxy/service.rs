//! The five calls of Images in proxy mode: each checks its request and computes the memory that it needs.

use std::path::Path;

use async_trait::async_trait;

use crate::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest,
    ListImagesRequest, UpdateImageRequest, UpdateImageResponse,
};
use crate::limits::decoded_size;
use crate::model::{Result, image};
use crate::proxy::images::ProxyImages;
use crate::proxy::read::Read;
use crate::proxy::undo_keep::TargetChange;
use crate::service::{CallContext, Images, Reply, images, local};

#[async_trait]
impl Images for ProxyImages {
    fn are_of_database(&self, path: &Path) -> bool {
        self.live().is_some_and(|files| files.database.is_at(path))
    }

    async fn get(&self, call: &CallContext, request: GetImageRequest) -> Result<Reply> {
        self.read(call, Read::Get(request)).await
    }

    async fn list(&self, call: &CallContext, request: ListImagesRequest) -> Result<Reply> {
        self.read(call, Read::List(request)).await
    }

    async fn create(&self, call: &CallContext, request: CreateImageRequest) -> Result<Reply> {
        let checked = image::from_request(request.image.clone(), "CreateImageRequest")?;
        let path = "/containerd.services.images.v1.Images/Create";
        let made = |answer: &CreateImageResponse| answer.image.clone().into_option();
        let bytes = local::image_bytes(&checked) + local::reply_bytes(&checked);
        self.write(call, path, checked.name, String::new(), None, bytes, request, made).await
    }

    async fn update(&self, call: &CallContext, request: UpdateImageRequest) -> Result<Reply> {
        let checked = image::from_request(request.image.clone(), "UpdateImageRequest")?;
        let path = "/containerd.services.images.v1.Images/Update";
        let made = |answer: &UpdateImageResponse| answer.image.clone().into_option();
        // The answer contains the stored record, too. Without a local copy, the record may have any
        // size.
        let stored = match self.local().record_bytes(&call.namespace()?, &checked.name) {
            0 => images::MAX_RECORD_BYTES,
            bytes => bytes,
        };
        let mask = decoded_size::strings(&request.update_mask.paths);
        let bytes = local::image_bytes(&checked) + local::reply_bytes(&checked) + mask + stored;
        let loss = TargetChange::from_update(&checked, &request.update_mask.paths);
        self.write(call, path, checked.name, String::new(), loss, bytes, request, made).await
    }

    async fn delete(&self, call: &CallContext, request: DeleteImageRequest) -> Result<Reply> {
        let path = "/containerd.services.images.v1.Images/Delete";
        let (name, target) = (request.name.clone(), request.target.digest.clone());
        let gone = |_: &protobuf::well_known_types::empty::Empty| None;
        let bytes = decoded_size::decoded(&request, 0);
        let loss = TargetChange::from_delete(request.sync);
        self.write(call, path, name, target, loss, bytes, request, gone).await
    }
}
