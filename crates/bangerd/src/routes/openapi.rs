//! The API's routes, each with its entry in the OpenAPI document.
//!
//! The document is OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.0>), whose schemas are JSON Schema 2020-12.

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use banger_api::{ApiError, OperationEvent};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::daemon::Daemon;

/// Returns the schema of a type, or a reference to it.
type SchemaFn = fn(&mut SchemaGenerator) -> Schema;

/// Routes, and the document that describes them.
pub(super) struct Api {
    router: Router<Arc<Daemon>>,
    paths: Map<String, Value>,
    generator: SchemaGenerator,
}

/// A route's entry in the document.
pub(super) struct Doc {
    id: &'static str,
    summary: &'static str,
    query: Option<SchemaFn>,
    body: Option<(&'static str, SchemaFn)>,
    response: Response,
}

enum Response {
    /// One JSON value.
    Json(SchemaFn),
    /// Events of an operation, one JSON line each. The type is the result of the last one, `done`.
    Events(SchemaFn),
    /// JSON lines of this type.
    Lines(SchemaFn),
    /// Bytes of this content type.
    Bytes(&'static str),
    /// A connection that becomes a byte stream in both directions.
    Upgrade,
}

impl Doc {
    /// Creates the entry of a route without parameters that returns an empty JSON object. `id` must be unique.
    pub(super) fn new(id: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            summary,
            query: None,
            body: None,
            response: Response::Json(|_| schemars::json_schema!({ "type": "object" })),
        }
    }

    /// Sets the type of the query's parameters.
    pub(super) fn query<T: JsonSchema>(self) -> Self {
        // Inline: each property becomes a parameter.
        Self { query: Some(T::json_schema), ..self }
    }

    /// Sets the type of the JSON body.
    pub(super) fn body<T: JsonSchema>(self) -> Self {
        Self { body: Some(("application/json", |generator| generator.subschema_for::<T>())), ..self }
    }

    /// Sets the body to bytes.
    pub(super) fn upload(self) -> Self {
        Self { body: Some(("application/octet-stream", |_| schemars::json_schema!({}))), ..self }
    }

    /// Sets the response to one JSON value.
    pub(super) fn returns<T: JsonSchema>(self) -> Self {
        Self { response: Response::Json(|generator| generator.subschema_for::<T>()), ..self }
    }

    /// Sets the response to an operation's events, the last of which has a `T`.
    pub(super) fn runs<T: JsonSchema>(self) -> Self {
        Self { response: Response::Events(|generator| generator.subschema_for::<T>()), ..self }
    }

    /// Sets the response to JSON lines.
    pub(super) fn lines<T: JsonSchema>(self) -> Self {
        Self { response: Response::Lines(|generator| generator.subschema_for::<T>()), ..self }
    }

    /// Sets the response to bytes.
    pub(super) fn bytes(self, content_type: &'static str) -> Self {
        Self { response: Response::Bytes(content_type), ..self }
    }

    /// Sets the response to a connection that becomes a byte stream.
    pub(super) fn upgrades(self) -> Self {
        Self { response: Response::Upgrade, ..self }
    }
}

impl Api {
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.meta_schema = None;
            "/components/schemas".clone_into(settings.definitions_path.to_mut());
        });
        Self { router: Router::new(), paths: Map::new(), generator: settings.into_generator() }
    }

    pub(super) fn get<H, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Arc<Daemon>>,
        T: 'static,
    {
        self.add(path, ("get", MethodFilter::GET), handler, &doc)
    }

    pub(super) fn post<H, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Arc<Daemon>>,
        T: 'static,
    {
        self.add(path, ("post", MethodFilter::POST), handler, &doc)
    }

    pub(super) fn patch<H, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Arc<Daemon>>,
        T: 'static,
    {
        self.add(path, ("patch", MethodFilter::PATCH), handler, &doc)
    }

    pub(super) fn delete<H, T>(self, path: &str, handler: H, doc: Doc) -> Self
    where
        H: Handler<T, Arc<Daemon>>,
        T: 'static,
    {
        self.add(path, ("delete", MethodFilter::DELETE), handler, &doc)
    }

    fn add<H, T>(mut self, path: &str, (method, filter): (&str, MethodFilter), handler: H, doc: &Doc) -> Self
    where
        H: Handler<T, Arc<Daemon>>,
        T: 'static,
    {
        self.router = self.router.route(path, on(filter, handler));
        let entry = doc.entry(path, &mut self.generator);
        if let Value::Object(methods) = self.paths.entry(path).or_insert_with(|| json!({})) {
            methods.insert(method.to_owned(), entry);
        }
        self
    }

    /// Returns the routes.
    pub(super) fn router(self) -> Router<Arc<Daemon>> {
        self.router
    }

    /// Returns the document.
    pub(super) fn document(mut self) -> Value {
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "banger",
                "description": "The API of bangerd, on a Unix socket in its runtime directory.",
                "version": env!("CARGO_PKG_VERSION"),
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            // The host's name is not used on a Unix socket.
            "servers": [{ "url": "http://localhost" }],
            "paths": self.paths,
            "components": { "schemas": self.generator.take_definitions(true) },
        })
    }
}

impl Doc {
    fn entry(&self, path: &str, generator: &mut SchemaGenerator) -> Value {
        let mut parameters: Vec<Value> = path_parameters(path).map(path_parameter).collect();
        if let Some(query) = self.query {
            parameters.extend(query_parameters(query(generator).as_value()));
        }
        let mut entry = json!({ "operationId": self.id, "summary": self.summary, "parameters": parameters });
        if let Some((content_type, body)) = self.body {
            entry["requestBody"] = json!({ "content": { content_type: { "schema": body(generator) } } });
        }
        let lines = |schema| json!({ "application/x-ndjson": { "schema": schema } });
        let (status, description, content) = match self.response {
            Response::Json(schema) => {
                ("200", "success", Some(json!({ "application/json": { "schema": schema(generator) } })))
            }
            Response::Events(result) => {
                let mut content = lines(generator.subschema_for::<OperationEvent>());
                content["application/x-ndjson"]["x-result"] = result(generator).to_value();
                (
                    "200",
                    "an operation's events, one JSON line each; `done` or `error` is the last",
                    Some(content),
                )
            }
            Response::Lines(schema) => ("200", "one JSON line each", Some(lines(schema(generator)))),
            Response::Bytes(content_type) => {
                ("200", "bytes", Some(json!({ content_type: { "schema": {} } })))
            }
            Response::Upgrade => ("101", "the connection is a byte stream from now on", None),
        };
        let mut response = json!({ "description": description });
        if let Some(content) = content {
            response["content"] = content;
        }
        let error = json!({
            "description": "an error, with the HTTP status of its kind",
            "content": { "application/json": { "schema": generator.subschema_for::<ApiError>() } },
        });
        entry["responses"] = json!({ status: response, "default": error });
        entry
    }
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameter(name: &str) -> Value {
    let description =
        if name == "id" { "The operation's id." } else { "Id, name, or the beginning of either." };
    json!({
        "name": name, "in": "path", "required": true, "description": description, "schema": { "type": "string" },
    })
}

/// Returns a parameter for each property of an object's schema.
fn query_parameters(schema: &Value) -> Vec<Value> {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let properties = schema["properties"].as_object().into_iter().flatten();
    let parameter = |(name, schema): (&String, &Value)| {
        json!({
            "name": name, "in": "query", "required": required.contains(&json!(name)), "schema": schema,
        })
    };
    properties.map(parameter).collect()
}
