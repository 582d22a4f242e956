//! Schemas as the wire has them, in its two shapes.

use serde_json::{Map, Value as Json, json};

use super::ids::IdType;
use super::schema::{AttributeType, Column, FullText, Metric, Schema};

/// The shape of `/v1/namespaces/{ns}/schema`: `type`, `filterable` and `full_text_search` of every attribute, null where
/// they do not apply.
pub fn v1(schema: &Schema) -> Json {
    let mut out = Map::new();
    out.insert("id".into(), json!({"type": id_type(schema), "filterable": null, "full_text_search": null}));
    for column in &schema.columns {
        let mut config = Map::new();
        config.insert("type".into(), column.kind.to_string().into());
        config.insert("filterable".into(), filterable(column).map_or(Json::Null, Json::from));
        config.insert("full_text_search".into(), column.full_text.as_ref().map_or(Json::Null, full_text));
        if column.late_interaction {
            config.insert("ann".into(), json!({"late_interaction": true}));
        } else if column.has_ann() {
            config.insert("ann".into(), true.into());
        }
        flags(column, &mut config);
        out.insert(column.name.clone(), Json::Object(config));
    }
    Json::Object(out)
}

/// The shape inside of metadata: nothing null, metrics shown.
pub fn metadata(schema: &Schema) -> Json {
    let mut out = Map::new();
    out.insert("id".into(), json!({"type": id_type(schema)}));
    for column in &schema.columns {
        let mut config = Map::new();
        config.insert("type".into(), column.kind.to_string().into());
        if let Some(filterable) = filterable(column) {
            config.insert("filterable".into(), filterable.into());
        }
        if let Some(options) = &column.full_text {
            config.insert("full_text_search".into(), full_text(options));
        }
        if column.has_ann() {
            let mut ann = Map::new();
            ann.extend(schema.metric.map(|metric| ("distance_metric".to_owned(), metric.name().into())));
            if column.late_interaction {
                ann.insert("late_interaction".into(), true.into());
            }
            config.insert("ann".into(), if ann.is_empty() { true.into() } else { Json::Object(ann) });
        }
        if column.kind == AttributeType::Sparse {
            config.insert("sparse_knn".into(), json!({"distance_metric": Metric::DotProduct.name()}));
        }
        flags(column, &mut config);
        out.insert(column.name.clone(), Json::Object(config));
    }
    Json::Object(out)
}

/// Integers until the first write or the schema says otherwise.
fn id_type(schema: &Schema) -> &'static str {
    schema.id_type.unwrap_or(IdType::Uint).name()
}

/// `None` for vectors, to which filters do not apply.
fn filterable(column: &Column) -> Option<bool> {
    (!column.kind.has_vectors()).then_some(column.filterable)
}

fn flags(column: &Column, config: &mut Map<String, Json>) {
    for (key, set) in [("regex", column.regex), ("glob", column.glob), ("fuzzy", column.fuzzy)] {
        if set {
            config.insert(key.into(), true.into());
        }
    }
    if let Some(source) = &column.derived_from {
        config.insert("derived_from".into(), source.as_str().into());
    }
}

fn full_text(options: &FullText) -> Json {
    let mut config = serde_json::to_value(options).unwrap_or(Json::Null);
    // Through f64 these would show digits that nobody wrote: 1.2000000476837158.
    for (key, value) in [("k1", options.k1), ("k3", options.k3), ("b", options.b)] {
        config[key] = super::value_render::f32_json(value);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::{metadata, v1};
    use crate::model::ids::IdType;
    use crate::model::schema::{AttributeType, Column, Element, FullText, Metric, Schema};
    use serde_json::json;

    fn schema() -> Schema {
        let text = Column {
            filterable: false,
            full_text: Some(FullText::default()),
            ..Column::new("text", AttributeType::String, 0)
        };
        let path = Column { glob: true, filterable: false, ..Column::new("path", AttributeType::String, 0) };
        let vector = AttributeType::Vector { dims: 2, element: Element::F32 };
        Schema {
            id_type: Some(IdType::Uint),
            metric: Some(Metric::CosineDistance),
            columns: vec![
                Column::new("vector", vector, 0),
                Column::new("weights", AttributeType::Sparse, 0),
                Column { late_interaction: true, ..Column::new("tokens", AttributeType::Multivector { dims: 4 }, 0) },
                Column::new("stored", AttributeType::Multivector { dims: 4 }, 0),
                text,
                path,
                Column::new("tags", AttributeType::Strings, 0),
            ],
            dropped: Vec::new(),
        }
    }

    #[test]
    fn v1_has_null_where_a_key_does_not_apply() {
        let fts = json!({
            "k1": 1.2, "k3": 8.0, "b": 0.75, "language": "english", "stemming": false, "max_token_length": 39,
            "remove_stopwords": false, "ascii_folding": false, "case_sensitive": false, "tokenizer": "word_v4",
        });
        let expected = json!({
            "id": {"type": "uint", "filterable": null, "full_text_search": null},
            "vector": {"type": "[2]f32", "filterable": null, "full_text_search": null, "ann": true},
            "weights": {"type": "{}f16", "filterable": false, "full_text_search": null},
            "tokens": {
                "type": "[][4]f32", "filterable": null, "full_text_search": null, "ann": {"late_interaction": true},
            },
            "stored": {"type": "[][4]f32", "filterable": null, "full_text_search": null},
            "text": {"type": "string", "filterable": false, "full_text_search": fts},
            "path": {"type": "string", "filterable": false, "full_text_search": null, "glob": true},
            "tags": {"type": "[]string", "filterable": true, "full_text_search": null},
        });
        assert_eq!(v1(&schema()), expected);
    }

    #[test]
    fn metadata_leaves_nulls_out_and_shows_metrics() {
        let shown = metadata(&schema());
        assert_eq!(shown["id"], json!({"type": "uint"}));
        assert_eq!(shown["vector"], json!({"type": "[2]f32", "ann": {"distance_metric": "cosine_distance"}}));
        let ann = json!({"distance_metric": "cosine_distance", "late_interaction": true});
        assert_eq!(shown["tokens"], json!({"type": "[][4]f32", "ann": ann}));
        assert_eq!(shown["stored"], json!({"type": "[][4]f32"}));
        let weights = json!({"type": "{}f16", "filterable": false, "sparse_knn": {"distance_metric": "dot_product"}});
        assert_eq!(shown["weights"], weights);
        assert_eq!(shown["tags"], json!({"type": "[]string", "filterable": true}));
        assert_eq!(shown["text"]["full_text_search"]["k1"], json!(1.2));
    }
}
