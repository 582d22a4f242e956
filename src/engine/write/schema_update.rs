//! Schema updates: what an update makes of a schema, or why it may not.

use serde_json::{Map, Value as Json};

use super::infer::{VECTOR_NAME, check_name};
use crate::error::{Error, Result};
use crate::model::ids::IdType;
use crate::model::schema::{
    AttributeType, COLUMNS_MAX, Column, FullText, Metric, Schema, Tokenizer, VECTOR_COLUMNS_MAX,
};
use crate::model::write::SchemaUpdate;

/// The keys of an attribute's configuration.
const KEYS: [&str; 11] = [
    "type",
    "filterable",
    "full_text_search",
    "regex",
    "glob",
    "fuzzy",
    "ann",
    "sparse_knn",
    "embed",
    "derived_from",
    "drop",
];

/// The schema after an update. `has_documents` says whether the namespace has any: then it takes no new dense vectors.
pub fn apply_schema_update(schema: &Schema, update: &SchemaUpdate, has_documents: bool) -> Result<Schema> {
    let mut next = schema.clone();
    // Drops first: they make room for new columns.
    let (drops, others): (Vec<_>, Vec<_>) = update.attributes.iter().partition(|(_, config)| is_drop(config));
    for (name, _) in drops {
        drop_column(&mut next, name)?;
    }
    for (name, config) in others {
        let config = Config::read(name, config)?;
        if name == "id" {
            set_id_type(&mut next, &config)?;
        } else {
            set_column(&mut next, &config, has_documents)?;
        }
    }
    check_sources(&next)?;
    Ok(next)
}

/// What attributes are derived from must be there, and not be derived itself.
pub(super) fn check_sources(schema: &Schema) -> Result<()> {
    for column in &schema.columns {
        let Some(source) = &column.derived_from else { continue };
        match schema.column(source) {
            Some(found) if found.name != column.name && found.derived_from.is_none() => {}
            Some(_) => {
                return Err(refuse(
                    &column.name,
                    format!("derived_from: '{source}' is derived itself, expected another attribute"),
                ));
            }
            None => return Err(refuse(&column.name, format!("derived_from: attribute '{source}' not found"))),
        }
    }
    Ok(())
}

/// Adds a column, within the bounds on columns.
pub fn add_column(schema: &mut Schema, column: Column, has_documents: bool) -> Result<()> {
    let name = &column.name;
    check_name(name)?;
    if schema.columns.len() >= COLUMNS_MAX {
        return Err(refuse(name, format!("the namespace has {COLUMNS_MAX} attributes, no more are allowed")));
    }
    if column.has_ann() {
        if has_documents {
            return Err(vector_comes_late(name));
        }
        if schema.columns.iter().filter(|column| column.has_ann()).count() >= VECTOR_COLUMNS_MAX {
            return Err(refuse(
                name,
                format!("the namespace has {VECTOR_COLUMNS_MAX} vector attributes, no more are allowed"),
            ));
        }
    }
    schema.columns.push(column);
    Ok(())
}

/// The refusal of a dense vector that was not declared before the first document.
pub fn vector_comes_late(name: &str) -> Error {
    if name == VECTOR_NAME {
        return Error::invalid("💔 Vector provided for namespace without vector attribute")
            .with_attribute(name)
            .with_hint("declare vectors before the first document, or copy the documents into a new namespace");
    }
    refuse(name, "vector attributes cannot be added to a namespace with documents")
}

/// Fixes the metric, or checks that it is the namespace's.
pub fn set_metric(schema: &mut Schema, metric: Metric) -> Result<()> {
    match schema.metric {
        Some(have) if have != metric => Err(Error::invalid(format!(
            "💔 distance metric mismatch, expected {}, got {}",
            have.name(),
            metric.name()
        ))),
        _ => {
            schema.metric = Some(metric);
            Ok(())
        }
    }
}

fn refuse(name: &str, what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("🙅 invalid schema update for attribute '{name}': {what}")).with_attribute(name)
}

/// A 422: the configuration has the wrong shape.
fn wrong_shape(name: &str, what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("Failed to deserialize the JSON body into the target type: schema.{name}: {what}"))
        .with_code("unprocessable")
        .with_attribute(name)
}

fn is_drop(config: &Json) -> bool {
    config.get("drop") == Some(&Json::Bool(true))
}

fn drop_column(schema: &mut Schema, name: &str) -> Result<()> {
    if name == "id" {
        return Err(refuse(name, "the id cannot be dropped"));
    }
    let epoch = schema.column(name).map(|column| column.epoch);
    schema.columns.retain(|column| column.name != name);
    for column in &mut schema.columns {
        column.derived_from.take_if(|source| source == name);
    }
    let dropped = schema.dropped.iter().position(|(dropped, _)| dropped == name);
    match (epoch, dropped) {
        // A request that is sent again must not fail.
        (None, Some(_)) => Ok(()),
        (None, None) => Err(refuse(name, "attribute not found, so it cannot be dropped")),
        // What a merge of an earlier release brought may have an epoch that was counted elsewhere.
        (Some(epoch), Some(at)) => {
            let count = &mut schema.dropped[at].1;
            *count = (*count).max(epoch).saturating_add(1);
            Ok(())
        }
        (Some(_), None) if schema.dropped.len() >= COLUMNS_MAX => {
            Err(refuse(name, format!("{COLUMNS_MAX} attributes were dropped before, no more are allowed")))
        }
        (Some(epoch), None) => {
            schema.dropped.push((name.to_owned(), epoch.saturating_add(1)));
            Ok(())
        }
    }
}

/// One attribute's configuration: a type alone, or a map with one.
struct Config<'a> {
    name: &'a str,
    kind: &'a str,
    /// `None` for the shorthand, which is the type alone.
    options: Option<&'a Map<String, Json>>,
}

impl<'a> Config<'a> {
    fn read(name: &'a str, config: &'a Json) -> Result<Self> {
        match config {
            Json::String(kind) => Ok(Config { name, kind, options: None }),
            Json::Object(options) => {
                if let Some(unknown) = options.keys().find(|key| !KEYS.contains(&key.as_str())) {
                    let known = KEYS.map(|key| format!("`{key}`")).join(", ");
                    return Err(wrong_shape(name, format!("unknown field `{unknown}`, expected one of {known}")));
                }
                match options.get("type") {
                    Some(Json::String(kind)) => Ok(Config { name, kind, options: Some(options) }),
                    Some(Json::Null) | None => Err(wrong_shape(name, "missing field `type`")),
                    Some(other) => Err(wrong_shape(name, format!("type: expected a string, got {other}"))),
                }
            }
            _ => Err(wrong_shape(name, "data did not match any variant of untagged enum AttributeSchema")),
        }
    }

    /// An option that is not null.
    fn get(&self, key: &str) -> Option<&'a Json> {
        self.options.and_then(|options| options.get(key)).filter(|json| !json.is_null())
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong_shape(self.name, format!("{key}: expected a boolean, got {other}"))),
        }
    }

    fn kind(&self) -> Result<AttributeType> {
        if let Some(kind) = AttributeType::parse(self.kind) {
            return Ok(kind);
        }
        Err(refuse(
            self.name,
            format!(
                "unknown type '{}', expected bool, int, uint, float, string, uuid, datetime, an array of one of these \
                 such as []string, bytes, a vector such as [384]f32, [384]f16 or [384]i8 of at most {} dimensions, several \
                 such as [][128]f32, or {{}}f16",
                self.kind,
                crate::model::schema::DIMS_MAX
            ),
        ))
    }
}

fn set_id_type(schema: &mut Schema, config: &Config<'_>) -> Result<()> {
    let id_type = match config.kind {
        "uint" => IdType::Uint,
        "uuid" => IdType::Uuid,
        "string" => IdType::String,
        other => return Err(Error::invalid(format!("💔 {other} is not a valid ID type")).with_attribute("id")),
    };
    match schema.id_type {
        Some(have) if have != id_type => Err(changes_type("id", have.name(), id_type.name())),
        _ => {
            schema.id_type = Some(id_type);
            Ok(())
        }
    }
}

fn changes_type(name: &str, from: impl std::fmt::Display, to: impl std::fmt::Display) -> Error {
    refuse(name, format!("cannot change attribute type from {from} to {to}"))
}

fn set_column(schema: &mut Schema, config: &Config<'_>, has_documents: bool) -> Result<()> {
    let kind = config.kind()?;
    let name = config.name;
    let known = schema.columns.iter().position(|column| column.name == name);
    let mut column = match known {
        Some(at) => {
            let column = &schema.columns[at];
            if column.kind != kind {
                return Err(changes_type(name, column.kind, kind));
            }
            column.clone()
        }
        None => Column::new(name, kind, schema.epoch_of(name)),
    };
    set_search(&mut column, config)?;
    match config.get("derived_from") {
        None => {}
        Some(Json::String(source)) => column.derived_from = Some(source.clone()),
        Some(other) => {
            return Err(wrong_shape(name, format!("derived_from: expected the name of an attribute, got {other}")));
        }
    }
    let searched = column.full_text.is_some() || column.regex || column.glob || column.fuzzy;
    match config.flag("filterable")? {
        Some(true) if !kind.is_filterable() => {
            return Err(refuse(name, format!("attributes of type {kind} cannot be filterable")));
        }
        Some(filterable) => column.filterable = filterable,
        None if known.is_none() && searched => column.filterable = false,
        None => {}
    }
    if let Some(metric) = set_vector(&mut column, config, known.is_none())? {
        set_metric(schema, metric)?;
    }
    match known {
        Some(at) => schema.columns[at] = column,
        None => add_column(schema, column, has_documents)?,
    }
    Ok(())
}

/// Full-text search, regex, glob and fuzzy. The shorthand resets them.
fn set_search(column: &mut Column, config: &Config<'_>) -> Result<()> {
    let Some(_) = config.options else {
        column.full_text = None;
        (column.regex, column.glob, column.fuzzy) = (false, false, false);
        return Ok(());
    };
    let flags = [("regex", &mut column.regex), ("glob", &mut column.glob), ("fuzzy", &mut column.fuzzy)];
    for (key, flag) in flags {
        *flag = config.flag(key)?.unwrap_or(*flag);
    }
    match config.get("full_text_search") {
        None => {}
        Some(Json::Bool(false)) => column.full_text = None,
        Some(Json::Bool(true)) => {
            column.full_text.get_or_insert_default();
        }
        Some(Json::Object(options)) => {
            let known = column.full_text.take().unwrap_or_default();
            column.full_text = Some(full_text(config.name, known, options)?);
        }
        Some(other) => {
            return Err(wrong_shape(
                config.name,
                format!("full_text_search: expected a boolean or a map, got {other}"),
            ));
        }
    }
    check_options(column)
}

/// Checks that the options by which text is searched are of the column's type, and within their bounds.
pub(super) fn check_options(column: &Column) -> Result<()> {
    let (name, kind) = (&column.name, column.kind);
    let searched = column.full_text.is_some() || column.regex || column.glob || column.fuzzy;
    if searched && !matches!(kind, AttributeType::String | AttributeType::Strings) {
        return Err(refuse(
            name,
            format!("full_text_search, regex, glob and fuzzy are for string and []string, the type is {kind}"),
        ));
    }
    let Some(options) = &column.full_text else { return Ok(()) };
    if options.tokenizer == Tokenizer::PreTokenizedArray && kind != AttributeType::Strings {
        return Err(refuse(name, format!("tokenizer pre_tokenized_array is for []string, the type is {kind}")));
    }
    let bound = |key: &str, value: f32, max: f32| {
        if (0.0..=max).contains(&value) {
            return Ok(());
        }
        Err(refuse(name, format!("full_text_search.{key} is {value}, expected a number from 0 to {max}")))
    };
    bound("k1", options.k1, 1_000.0)?;
    bound("k3", options.k3, 1_000.0)?;
    bound("b", options.b, 1.0)?;
    let length = options.max_token_length;
    if !(1..=254).contains(&length) {
        let what = format!("full_text_search.max_token_length is {length}, expected 1 to 254 bytes");
        return Err(refuse(name, what));
    }
    Ok(())
}

/// The options with those of an update merged in.
fn full_text(name: &str, known: FullText, update: &Map<String, Json>) -> Result<FullText> {
    let Ok(Json::Object(mut options)) = serde_json::to_value(&known) else { return Ok(known) };
    // It is shown only where it is set.
    options.insert("positions".into(), known.positions.into());
    for (key, value) in update.iter().filter(|(_, value)| !value.is_null()) {
        if !options.contains_key(key) {
            let expected: Vec<String> = options.keys().map(|key| format!("`{key}`")).collect();
            return Err(wrong_shape(
                name,
                format!("full_text_search: unknown field `{key}`, expected one of {}", expected.join(", ")),
            ));
        }
        options.insert(key.clone(), value.clone());
    }
    serde_json::from_value(Json::Object(options))
        .map_err(|error| wrong_shape(name, format!("full_text_search: {error}")))
}

/// Checks `ann`, `sparse_knn` and `embed`; the metric that they name.
fn set_vector(column: &mut Column, config: &Config<'_>, is_new: bool) -> Result<Option<Metric>> {
    let (name, kind) = (config.name, column.kind);
    if config.get("embed").is_some_and(|embed| *embed != Json::Bool(false)) {
        return Err(Error::unsupported(format!("attribute '{name}': `embed` is not offered by this version"))
            .with_attribute(name)
            .with_hint("compute vectors before writing them"));
    }
    let mut late_interaction = false;
    let (ann, metric) = match config.get("ann") {
        None => (None, None),
        Some(Json::Bool(ann)) => (Some(*ann), None),
        Some(Json::Object(options)) => {
            late_interaction = match options.get("late_interaction") {
                None | Some(Json::Null) => false,
                Some(Json::Bool(late_interaction)) => *late_interaction,
                Some(other) => {
                    let what = format!("ann.late_interaction: expected a boolean, got {other}");
                    return Err(wrong_shape(name, what));
                }
            };
            (Some(true), named_metric(name, "ann", options)?)
        }
        Some(other) => {
            return Err(wrong_shape(name, format!("ann: expected a boolean or a map, got {other}")));
        }
    };
    if let AttributeType::Multivector { .. } = kind {
        return match ann {
            None => Ok(None),
            Some(true) if !late_interaction => Err(refuse(name, "multivector ANN needs late_interaction:true")
                .with_hint(
                    "give `ann: {\"late_interaction\": true}`, or leave out `ann` to have vectors stored only",
                )),
            Some(_) if !is_new && column.late_interaction != late_interaction => {
                Err(refuse(name, "late_interaction cannot be changed")
                    .with_hint("drop the attribute, or copy the documents into a new namespace"))
            }
            Some(_) => {
                column.late_interaction = late_interaction;
                Ok(metric)
            }
        };
    }
    if late_interaction {
        let message = format!("late_interaction is for multivectors such as [][128]f32, the type is {kind}");
        return Err(refuse(name, message));
    }
    if kind.is_vector() {
        return match (ann, is_new) {
            (Some(true), _) | (None, false) => Ok(metric),
            _ if name == VECTOR_NAME => {
                Err(Error::invalid("💔 the `vector` attribute must have `ann` set to `true`").with_attribute(name))
            }
            _ => Err(Error::invalid(format!("💔 vector attribute '{name}' must have ann:true")).with_attribute(name)),
        };
    }
    if ann == Some(true) {
        return Err(refuse(name, format!("ann is for vectors, the type is {kind}")));
    }
    match config.get("sparse_knn") {
        None | Some(Json::Bool(false)) => Ok(None),
        Some(_) if kind != AttributeType::Sparse => {
            Err(refuse(name, format!("sparse_knn is for {{}}f16, the type is {kind}")))
        }
        Some(Json::Object(options)) => match named_metric(name, "sparse_knn", options)? {
            None | Some(Metric::DotProduct) => Ok(None),
            Some(other) => {
                Err(refuse(name, format!("sparse_knn.distance_metric is {}, expected dot_product", other.name())))
            }
        },
        Some(Json::Bool(true)) => Ok(None),
        Some(other) => Err(wrong_shape(name, format!("sparse_knn: expected a map, got {other}"))),
    }
}

fn named_metric(name: &str, key: &str, options: &Map<String, Json>) -> Result<Option<Metric>> {
    match options.get("distance_metric").filter(|json| !json.is_null()) {
        None => Ok(None),
        Some(metric) => serde_json::from_value(metric.clone())
            .map(Some)
            .map_err(|error| wrong_shape(name, format!("{key}.distance_metric: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::apply_schema_update;
    use crate::error::{Error, Kind, Result};
    use crate::model::ids::IdType;
    use crate::model::schema::{Metric, Schema};
    use crate::model::schema_render::v1;
    use crate::model::write::SchemaUpdate;
    use serde_json::{Value as Json, json};

    fn update(schema: &Schema, attributes: Json, has_documents: bool) -> Result<Schema> {
        let Json::Object(map) = attributes else { panic!("expected a map") };
        apply_schema_update(schema, &SchemaUpdate { attributes: map.into_iter().collect() }, has_documents)
    }

    fn fresh(attributes: Json) -> Schema {
        update(&Schema::default(), attributes, false).unwrap()
    }

    fn refused(schema: &Schema, attributes: Json) -> Error {
        update(schema, attributes, true).unwrap_err()
    }

    #[test]
    fn new_attributes_have_the_contracts_defaults() {
        let schema = fresh(json!({
            "id": "uuid",
            "a": "string",
            "b": {"type": "string", "full_text_search": true},
            "c": {"type": "[]string", "regex": true, "filterable": true},
            "d": "bytes",
            "e": {"type": "{}f16", "sparse_knn": {"distance_metric": "dot_product"}},
            "vector": {"type": "[2]f16", "ann": {"distance_metric": "cosine_distance"}},
        }));
        assert_eq!(schema.id_type, Some(IdType::Uuid));
        assert_eq!(schema.metric, Some(Metric::CosineDistance));
        let filterable: Vec<bool> = schema.columns.iter().map(|column| column.filterable).collect();
        assert_eq!(filterable, [true, false, true, false, false, false]);
        assert!(schema.column("b").unwrap().full_text.is_some());
    }

    #[test]
    fn types_never_change() {
        let schema = fresh(json!({"id": "uint", "a": "string"}));
        let error = refused(&schema, json!({"a": "int"}));
        let text = "🙅 invalid schema update for attribute 'a': cannot change attribute type from string to int";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.attribute(), Some("a"));
        let error = refused(&schema, json!({"id": "string"}));
        assert!(error.to_string().contains("attribute 'id': cannot change attribute type from uint to string"));
        assert_eq!(refused(&Schema::default(), json!({"id": "int"})).to_string(), "💔 int is not a valid ID type");
    }

    #[test]
    fn a_partial_update_keeps_what_it_does_not_name() {
        let fts = json!({"type": "string", "full_text_search": {"stemming": true, "k1": 1.5}});
        let schema = fresh(json!({"a": fts, "b": "string"}));
        let schema = update(&schema, json!({"a": {"type": "string", "full_text_search": {"b": 0.5}}}), true).unwrap();
        let options = schema.column("a").unwrap().full_text.clone().unwrap();
        assert!(options.stemming && options.k1 == 1.5 && options.b == 0.5);
        let schema = update(&schema, json!({"a": {"type": "string", "filterable": true}}), true).unwrap();
        assert!(schema.column("a").unwrap().full_text.is_some() && schema.column("a").unwrap().filterable);
        let schema = update(&schema, json!({"b": {"type": "string", "full_text_search": true}}), true).unwrap();
        assert!(schema.column("b").unwrap().filterable);
    }

    #[test]
    fn positions_are_switched_on_and_off_and_shown_where_they_are_kept() {
        let with = |positions: bool| json!({"a": {"type": "string", "full_text_search": {"positions": positions}}});
        let plain = fresh(json!({"a": {"type": "string", "full_text_search": {"stemming": true}}}));
        let kept = update(&plain, with(true), true).unwrap();
        let (before, after) =
            (plain.columns[0].full_text.clone().unwrap(), kept.columns[0].full_text.clone().unwrap());
        assert!(!before.positions && after.positions && after.stemming && before.same_terms(&after));
        assert_eq!(v1(&kept)["a"]["full_text_search"]["positions"], true);
        assert_eq!(v1(&plain)["a"]["full_text_search"].get("positions"), None);
        // A later update of something else keeps them.
        let later = json!({"a": {"type": "string", "full_text_search": {"k1": 2.0}}});
        assert!(update(&kept, later, true).unwrap().columns[0].full_text.as_ref().unwrap().positions);
        assert_eq!(update(&kept, with(false), true).unwrap(), plain);
        let error = refused(&plain, json!({"a": {"type": "string", "full_text_search": {"positions": 1}}}));
        assert!(error.to_string().contains("full_text_search"), "{error}");
    }

    #[test]
    fn the_shorthand_resets_search_and_keeps_filterability() {
        let schema = fresh(json!({"a": {"type": "string", "full_text_search": true, "glob": true}}));
        let schema = update(&schema, json!({"a": "string"}), true).unwrap();
        let column = schema.column("a").unwrap();
        assert!(column.full_text.is_none() && !column.glob && !column.filterable);
    }

    #[test]
    fn dense_vectors_must_be_searchable_and_come_before_documents() {
        let none = Schema::default();
        assert_eq!(
            refused(&none, json!({"vector": "[2]f32"})).to_string(),
            "💔 the `vector` attribute must have `ann` set to `true`"
        );
        assert_eq!(
            refused(&none, json!({"e": {"type": "[2]f32", "ann": false}})).to_string(),
            "💔 vector attribute 'e' must have ann:true"
        );
        let error = refused(&none, json!({"e": {"type": "[2]f32", "ann": true}}));
        assert!(error.to_string().contains("vector attributes cannot be added to a namespace with documents"));
        let nine: serde_json::Map<String, Json> =
            (0..9).map(|n| (format!("v{n}"), json!({"type": "[2]f32", "ann": {}}))).collect();
        let error = update(&none, Json::Object(nine), false).unwrap_err();
        assert!(error.to_string().contains("8 vector attributes"));
        let schema = fresh(json!({"vector": {"type": "[2]f32", "ann": true}}));
        assert!(update(&schema, json!({"vector": {"type": "[2]f32", "filterable": null}}), true).is_ok());
        assert!(update(&none, json!({"s": "{}f16"}), true).is_ok());
    }

    #[test]
    fn multivectors_are_searched_only_where_that_is_said_before_documents_come() {
        let none = Schema::default();
        let config = |ann: Json| json!({"t": {"type": "[][4]f32", "ann": ann}});
        let late = || config(json!({"late_interaction": true, "distance_metric": "dot_product"}));
        let searched = fresh(late());
        assert_eq!((searched.columns[0].late_interaction, searched.metric), (true, Some(Metric::DotProduct)));
        assert!(refused(&none, late()).to_string().contains("cannot be added to a namespace with documents"));
        // Stored only, it may come at any time.
        for stored in [json!({"t": "[][4]f32"}), config(json!(null)), config(json!(false))] {
            let schema = update(&none, stored.clone(), true).unwrap();
            assert!(!schema.columns[0].late_interaction && !schema.columns[0].filterable);
            assert_eq!(update(&schema, stored, true).unwrap(), schema);
            assert!(refused(&schema, late()).to_string().contains("late_interaction cannot be changed"));
        }
        for kept in [json!({"t": "[][4]f32"}), config(json!({"late_interaction": true}))] {
            assert_eq!(update(&searched, kept, true).unwrap(), searched);
        }
        assert!(refused(&searched, config(json!(false))).to_string().contains("late_interaction cannot be changed"));
        for ann in [json!(true), json!({}), json!({"late_interaction": false})] {
            let error = update(&none, config(ann), false).unwrap_err();
            assert!(error.to_string().contains("multivector ANN needs late_interaction:true"), "{error}");
        }
        let dense = json!({"v": {"type": "[4]f32", "ann": {"late_interaction": true}}});
        assert!(refused(&none, dense).to_string().contains("late_interaction is for multivectors"));
    }

    #[test]
    fn metrics_must_agree() {
        let vector = |metric: &str| json!({"type": "[2]f32", "ann": {"distance_metric": metric}});
        let both = json!({"a": vector("cosine_distance"), "b": vector("euclidean_squared")});
        assert_eq!(
            update(&Schema::default(), both, false).unwrap_err().to_string(),
            "💔 distance metric mismatch, expected cosine_distance, got euclidean_squared"
        );
        let error = update(&Schema::default(), json!({"a": vector("manhattan")}), false).unwrap_err();
        assert!(error.to_string().contains("unknown variant `manhattan`"));
    }

    #[test]
    fn a_dropped_attribute_comes_back_as_another() {
        let schema = fresh(json!({"a": "string", "b": "int"}));
        let first = schema.column("a").unwrap().uid();
        let schema = update(&schema, json!({"a": {"drop": true}}), true).unwrap();
        assert!(schema.column("a").is_none());
        assert_eq!(update(&schema, json!({"a": {"drop": true}}), true).unwrap(), schema);
        let schema = update(&schema, json!({"a": "string"}), true).unwrap();
        assert_ne!(schema.column("a").unwrap().uid(), first);
        let schema = update(&schema, json!({"a": {"drop": true}}), true).unwrap();
        assert_eq!(schema.epoch_of("a"), 2);
        assert!(refused(&schema, json!({"x": {"drop": true}})).to_string().contains("attribute not found"));
        assert!(refused(&schema, json!({"id": {"drop": true}})).to_string().contains("cannot be dropped"));
    }

    #[test]
    fn wrong_shapes_are_unprocessable() {
        for (config, text) in [
            (json!({}), "schema.a: missing field `type`"),
            (json!({"type": 7}), "expected a string"),
            (json!({"type": "string", "filterable": "yes"}), "filterable: expected a boolean"),
            (json!({"type": "string", "full_text": true}), "unknown field `full_text`"),
            (json!({"type": "string", "full_text_search": {"stem": true}}), "unknown field `stem`"),
            (json!({"type": "string", "full_text_search": {"language": "klingon"}}), "unknown variant `klingon`"),
            (json!({"type": "string", "full_text_search": 7}), "expected a boolean or a map"),
            (json!({"type": "[2]f32", "ann": 7}), "ann: expected a boolean or a map"),
            (json!({"type": "[][2]f32", "ann": {"late_interaction": 1}}), "late_interaction: expected a boolean"),
        ] {
            let error = refused(&Schema::default(), json!({"a": config}));
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(error.code(), "unprocessable");
        }
    }

    #[test]
    fn options_apply_to_some_types_only() {
        for (config, text) in [
            (json!("strin"), "unknown type 'strin'"),
            (json!("[20000]f32"), "at most 10752 dimensions"),
            (json!("[][20000]f32"), "at most 10752 dimensions"),
            (json!("[][8]f16"), "unknown type '[][8]f16'"),
            (json!({"type": "int", "full_text_search": true}), "the type is int"),
            (json!({"type": "int", "ann": true}), "ann is for vectors"),
            (json!({"type": "bytes", "filterable": true}), "cannot be filterable"),
            (json!({"type": "string", "sparse_knn": {}}), "sparse_knn is for {}f16"),
            (json!({"type": "{}f16", "sparse_knn": {"distance_metric": "cosine_distance"}}), "expected dot_product"),
            (json!({"type": "string", "full_text_search": {"tokenizer": "pre_tokenized_array"}}), "is for []string"),
            (json!({"type": "string", "full_text_search": {"max_token_length": 255}}), "expected 1 to 254"),
            (json!({"type": "string", "full_text_search": {"k1": -1}}), "full_text_search.k1 is -1"),
        ] {
            let error = refused(&Schema::default(), json!({"a": config}));
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!((error.kind(), error.code()), (Kind::Invalid, ""));
        }
        let embed = json!({"a": {"type": "string", "embed": "model"}});
        assert_eq!(refused(&Schema::default(), embed).kind(), Kind::Unsupported);
    }
}
