//! The city's mappings: what is in force, what is wrong with the files, and reading them at once.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Operator;
use super::formats;
use super::params::Params;
use super::problem::{Errors, Problem};
use super::{Context, Shared};
use crate::mapping::{Document, DocumentFile, InForce};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default().routes(routes!(list_mappings)).routes(routes!(reload_mappings))
}

/// A file of mappings.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Mapping {
    /// The file in the folder `city.mappings`.
    #[schema(example = "acme.json")]
    file: String,
    /// The name of the document in force; none where the file could never be used.
    #[schema(example = "acme")]
    id: Option<String>,
    /// SHA-256 of the file that the document in force was read from.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    digest: Option<String>,
    /// Rules in force.
    #[schema(example = 12)]
    rules: usize,
    /// What is wrong with the file as it is now: where anything is, what is in force is what it held before.
    #[schema(example = json!(["/fields/3/unit: \"kWh\" cannot become \"Cel\", the unit of temperature: a unit of another dimension"]))]
    problems: Vec<String>,
    /// The document in force.
    #[schema(value_type = Option<Object>)]
    document: Option<Document>,
}

/// The city's mappings.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Mappings {
    /// In the order in which they are looked at, before the built-in ones.
    items: Vec<Mapping>,
}

impl From<DocumentFile> for Mapping {
    fn from(DocumentFile { file, in_force, problems }: DocumentFile) -> Self {
        let (digest, document) = in_force.map(|InForce { digest, document }| (digest, document)).unzip();
        let (id, rules) =
            (document.as_ref().map(|document| document.id.clone()), document.as_ref().map_or(0, |document| document.fields.len()));
        Self { file, id, digest, rules, problems, document }
    }
}

impl FromIterator<DocumentFile> for Mappings {
    fn from_iter<T: IntoIterator<Item = DocumentFile>>(files: T) -> Self {
        Self { items: files.into_iter().map(Mapping::from).collect() }
    }
}

/// The city's mappings.
///
/// Documents of the folder `city.mappings`. A changed file is taken up within seconds; where it cannot be used, what it held before stays
/// in force, and its problems are told.
#[utoipa::path(get, path = "/v1/mappings", tag = "intake", responses((status = 200, description = "Documents", body = Mappings), Errors))]
async fn list_mappings(State(shared): State<Shared>, params: Params) -> Result<Response, Problem> {
    params.none()?;
    // A file system that is slow keeps the files locked.
    let files = shared.blocking(|context| Ok::<_, Problem>(context.mappings.files())).await?;
    Ok(formats::json(&files.into_iter().collect::<Mappings>()))
}

/// Reads the city's mappings at once.
///
/// What can be used is in force for every message after the answer, which is that of `GET /v1/mappings`; fields that it has a word on are
/// no longer listed as unmapped. Declare the request, which has no body, as `application/json`.
#[utoipa::path(post, path = "/v1/mappings/reload", tag = "intake", responses((status = 200, description = "Documents", body = Mappings), Errors))]
async fn reload_mappings(State(shared): State<Shared>, Operator(_caller): Operator, params: Params) -> Result<Response, Problem> {
    params.none()?;
    let reload = |context: &Context| {
        let files = context.mappings.reload().map_err(|error| Problem::internal(&error))?;
        let mapper = context.mappings.mapper();
        context.database.turn().forget_unmapped(|row| mapper.knows(&row.source, &row.decoder, &row.model, &row.field, &row.why))?;
        Ok::<_, Problem>(files)
    };
    Ok(formats::json(&shared.blocking(reload).await?.into_iter().collect::<Mappings>()))
}
