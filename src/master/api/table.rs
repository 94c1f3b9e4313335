//! Objects in the shape that the client asked for: themselves, Table rows, or metadata alone.

use bytes::Bytes;
use model::resource::Resource;
use model::status::ApiError;
use model::table;
use model::timestamp::Timestamp;
use serde_json::{Value, json};

use super::negotiate::{MetaVersion, Shape};
use super::query::Query;

/// What a Table's rows carry beside their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IncludeObject {
    /// Nothing.
    Nothing,
    /// PartialObjectMetadata: the default.
    Metadata,
    /// The whole object.
    Whole,
}

impl IncludeObject {
    /// Reads `?includeObject=`.
    ///
    /// # Errors
    /// 400 for another word.
    pub(super) fn parse(query: &Query) -> Result<Self, ApiError> {
        match query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::Nothing),
            "Object" => Ok(Self::Whole),
            other => {
                Err(ApiError::bad_request(format!("unrecognized includeObject value: {other:?}")))
            }
        }
    }
}

/// Turns objects of one kind into what the client asked for.
#[derive(Clone, Copy)]
pub(super) struct Shaper {
    pub(super) resource: &'static Resource,
    pub(super) shape: Shape,
    pub(super) include: IncludeObject,
    pub(super) now: Timestamp,
}

impl Shaper {
    /// One object, complete with kind, as the whole answer or as a watch event's object.
    ///
    /// `columns` says whether a Table carries its column definitions.
    pub(super) fn single(&self, object: Bytes, columns: bool) -> Bytes {
        match self.shape {
            Shape::Plain => object,
            Shape::Partial(version) => partial(&parse(&object), version).to_string().into(),
            Shape::Table(version) => {
                let value = parse(&object);
                let definitions = if columns { self.columns() } else { Value::Null };
                let table = json!({
                    "kind": "Table", "apiVersion": version.api_version(),
                    "metadata": {"resourceVersion": value["metadata"]["resourceVersion"]},
                    "columnDefinitions": definitions, "rows": [self.row(value, version)],
                });
                table.to_string().into()
            }
        }
    }

    /// One item of a list: comes without kind, as list items are kept.
    pub(super) fn item(&self, object: Bytes) -> Bytes {
        match self.shape {
            Shape::Plain => object,
            Shape::Partial(version) => partial(&parse(&object), version).to_string().into(),
            Shape::Table(version) => self.row(parse(&object), version).to_string().into(),
        }
    }

    /// A bookmark as a Table: no rows.
    pub(super) fn bookmark(&self, object: Bytes, columns: bool) -> Bytes {
        let Shape::Table(version) = self.shape else { return self.single(object, columns) };
        let value = parse(&object);
        let definitions = if columns { self.columns() } else { Value::Null };
        let table = json!({
            "kind": "Table", "apiVersion": version.api_version(),
            "metadata": {"resourceVersion": value["metadata"]["resourceVersion"]},
            "columnDefinitions": definitions,
            "rows": [{"cells": [], "object": partial(&value, version)}],
        });
        table.to_string().into()
    }

    /// `columnDefinitions`.
    pub(super) fn columns(&self) -> Value {
        let columns = self.resource.columns.iter().map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": "", "priority": column.priority,
            })
        });
        columns.collect()
    }

    fn row(&self, mut object: Value, version: MetaVersion) -> Value {
        let cells = table::row(self.resource, &object, self.now);
        let shown = match self.include {
            IncludeObject::Nothing => Value::Null,
            IncludeObject::Metadata => partial(&object, version),
            IncludeObject::Whole => {
                object["kind"] = self.resource.kind.into();
                object["apiVersion"] = self.resource.api_version().into();
                object
            }
        };
        json!({"cells": cells, "object": shown})
    }
}

fn partial(object: &Value, version: MetaVersion) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": version.api_version(),
        "metadata": object["metadata"],
    })
}

/// The store holds only JSON; should a record not be, the client sees an empty object.
fn parse(object: &[u8]) -> Value {
    serde_json::from_slice(object).unwrap_or_else(|_| json!({}))
}
