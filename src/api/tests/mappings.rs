//! Mappings and what they do not know.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Town;
use crate::model::{DeviceId, SourceName, Unmapped, Why};
use crate::state::Commit;

/// Fields of one device's model, as intake would note them.
fn leave(town: &Town, fields: &[(&str, &str, Why)]) {
    let source = SourceName::try_from("lorawan").unwrap();
    let unmapped = fields.iter().map(|(field, example, why)| {
        let unmapped = Unmapped {
            device: DeviceId::try_from("d").unwrap(),
            decoder: "ttn",
            model: "acme/t1".to_owned(),
            field: (*field).to_owned(),
            example: (*example).to_owned(),
            why: *why,
        };
        (source.clone(), Town::at(0), unmapped)
    });
    let commit = Commit { unmapped: unmapped.collect(), ..Commit::default() };
    town.context.database.turn().commit(commit).unwrap();
}

async fn fields_of(town: &Town) -> Vec<String> {
    let items = town.get_json("/v1/unmapped").await;
    items["items"].as_array().unwrap().iter().map(|item| item["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn mappings_are_read_at_once_and_a_faulty_file_leaves_what_was_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, document: &Value| std::fs::write(folder.path().join(file), document.to_string()).unwrap();
    let town = Town::new(&format!("[city]\nmappings = {:?}", folder.path())).await;
    assert_eq!(town.get_json("/v1/mappings").await, json!({ "items": [] }));
    leave(&town, &[("crack", "7", Why::Unknown), ("data.strain", "1713", Why::AmbiguousUnit), ("temperature", "3", Why::FurtherField)]);

    let document =
        json!({ "id": "acme", "applies": { "model": "acme/*" }, "fields": [{ "path": "*strain", "property": "strain", "unit": "um/m" }] });
    write("acme.json", &document);
    let answer = town.post(Method::POST, "/v1/mappings/reload", &json!({})).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    let first = answer.json()["items"][0].clone();
    assert_eq!(
        (&first["file"], &first["id"], &first["rules"], &first["problems"], &first["document"]),
        (&json!("acme.json"), &json!("acme"), &json!(1), &json!([]), &document)
    );
    assert_eq!(first["digest"].as_str().unwrap().len(), 64);
    assert_eq!(fields_of(&town).await, ["crack", "temperature"], "what a document has a word on is no longer missed");

    write("acme.json", &json!({ "id": "acme", "fields": [{ "path": "strain", "property": "strain", "unit": "Pa" }] }));
    let items = town.post(Method::POST, "/v1/mappings/reload", &json!({})).await.json()["items"].clone();
    assert_eq!(
        items[0]["problems"],
        json!(["/fields/0/unit: \"Pa\" cannot become \"um/m\", the unit of strain: a unit of another dimension"])
    );
    assert_eq!((&items[0]["digest"], &items[0]["document"]), (&first["digest"], &document));
    assert_eq!(town.get_json("/v1/mappings").await["items"], items);
    // Nobody's page can make a browser do it.
    let answer = town.send(Method::POST, "/v1/mappings/reload", &[], "").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn what_is_not_mapped_comes_with_a_mapping_to_begin_with() {
    let town = Town::new("").await;
    leave(&town, &[("crack", "7", Why::Unknown), ("data.strain", "1713", Why::AmbiguousUnit), ("probe_air_temp.value", "9", Why::Unknown)]);
    let items = town.get_json("/v1/unmapped").await["items"].clone();
    let suggested = |rule: Value| json!({ "id": "acme/t1", "applies": { "source": "lorawan", "decoder": "ttn", "model": "acme/t1" }, "fields": [rule] });
    let expected = [
        json!({ "path": "crack" }),
        json!({ "path": "data.strain", "property": "strain", "assumed_unit": "um/m" }),
        json!({ "path": "probe_air_temp.value", "property": "temperature", "assumed_unit": "Cel" }),
    ];
    for (item, rule) in items.as_array().unwrap().iter().zip(expected) {
        assert_eq!(item["suggestion"], suggested(rule));
    }
    let table = town.get("/v1/unmapped?format=csv").await;
    assert_eq!(table.header("content-type"), "text/csv; charset=utf-8; header=present");
    let lines: Vec<&str> = table.text.lines().collect();
    assert_eq!(lines[0], "source,decoder,model,field,why,count,first,last,device,example,suggestion");
    assert_eq!(
        lines[1],
        "lorawan,ttn,acme/t1,crack,unknown,1,2023-11-14T22:13:20Z,2023-11-14T22:13:20Z,d,7,\
         \"{\"\"id\"\":\"\"acme/t1\"\",\"\"applies\"\":{\"\"source\"\":\"\"lorawan\"\",\"\"decoder\"\":\"\"ttn\"\",\"\"model\"\":\"\"acme/t1\"\"},\"\"fields\"\":[{\"\"path\"\":\"\"crack\"\"}]}\""
    );
}
