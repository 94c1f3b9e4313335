//! The images of this board over the control socket: list, import, remove, export.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{query, refusal};
use crate::io::control::{Body, PieceReader, PieceWriter, json as answer, stream_body};
use crate::io::image::{ImageError, ImageStore};

/// The images of this board.
pub(super) fn list(images: &ImageStore) -> Value {
    let rows = images.list().into_iter().flat_map(|image| {
        let row = json!({
            "digest": image.digest.to_string(), "id": image.id.to_string(),
            "size": image.bytes, "platform": format!("linux/{}", image.architecture),
        });
        image.names.into_iter().map(move |name| {
            let mut row = row.clone();
            row["name"] = name.into();
            row
        })
    });
    rows.collect()
}

/// Loads an archive.
pub(super) async fn import(images: &ImageStore, request: Request<Incoming>) -> Response<Body> {
    let images = images.clone();
    let reader = PieceReader::new(request.into_body());
    let imported = tokio::task::spawn_blocking(move || images.import(reader, None)).await;
    match imported {
        Ok(Ok(names)) => {
            let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            answer(StatusCode::OK, &json!(names))
        }
        Ok(Err(error)) => image_refusal(&error),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Forgets a name.
pub(super) async fn remove(images: &ImageStore, request: &Request<Incoming>) -> Response<Body> {
    let Some(name) = query(request, "name") else {
        return refusal(StatusCode::BAD_REQUEST, "which image?");
    };
    let images = images.clone();
    match tokio::task::spawn_blocking(move || images.remove(&name)).await {
        Ok(Ok(())) => answer(StatusCode::OK, &json!({})),
        Ok(Err(error)) => image_refusal(&error),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Writes an archive.
pub(super) fn export(images: &ImageStore, request: &Request<Incoming>) -> Response<Body> {
    let Some(name) = query(request, "name") else {
        return refusal(StatusCode::BAD_REQUEST, "which image?");
    };
    if let Err(error) = images.resolve(&name) {
        return image_refusal(&error);
    }
    let images = images.clone();
    let (mut writer, pieces) = PieceWriter::new();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = images.export(&name, &mut writer) {
            writer.fail(std::io::Error::other(error.text()));
        }
    });
    Response::new(stream_body(pieces))
}

fn image_refusal(error: &ImageError) -> Response<Body> {
    let status = match error {
        ImageError::Absent(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    refusal(status, &error.text())
}
