//! The reference in daxfile-json(5) matches man/daxfile.schema.json; `UPDATE_JSON_PAGE=1` rewrites it.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

const BEGIN: &str = ".\\\" Written from the schema.\n";
const END: &str = ".\\\" End of the text made from the schema.\n";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../man/daxfile-json.5")
}

struct Schema(Value);

impl Schema {
    fn read() -> Schema {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../man/daxfile.schema.json");
        Schema(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    fn definition(&self, name: &str) -> &Value {
        &self.0["$defs"][name]
    }

    /// Whether the page has a subsection for the definition of this name.
    fn has_subsection(&self, name: &str) -> bool {
        ["properties", "description", "enum"].iter().any(|it| self.definition(name).get(it).is_some())
    }

    /// `array of extent`, `integer or null`
    fn type_of(&self, node: &Value) -> String {
        if let Some(name) = reference(node) {
            return if self.has_subsection(name) { name.to_owned() } else { self.type_of(self.definition(name)) };
        }
        let mut kinds: Vec<String> = if let Some(cases) = node["oneOf"].as_array() {
            cases.iter().map(|case| self.type_of(case)).collect()
        } else if let Some(values) = values(node) {
            values.iter().map(kind_of).collect()
        } else {
            match &node["type"] {
                Value::String(kind) if kind == "array" => vec![format!("array of {}", self.type_of(&node["items"]))],
                Value::String(kind) => vec![kind.clone()],
                Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap().to_owned()).collect(),
                other => panic!("a node of no known form: {other}"),
            }
        };
        kinds.sort_by_key(|kind| kind == "null");
        kinds.dedup();
        kinds.join(" or ")
    }

    fn members(&self, object: &Value, prefix: &str, page: &mut String) {
        let required = object["required"].as_array().cloned().unwrap_or_default();
        for (name, member) in object["properties"].as_object().into_iter().flatten() {
            let optional = if required.iter().any(|it| it == name) { "" } else { ", optional" };
            let _ = writeln!(page, ".It Va {prefix}{name} Pq {}{optional}", self.type_of(member));
            *page += &words(member);
            self.members(&cases_as_one(member), &format!("{prefix}{name}."), page);
        }
    }

    fn subsection(&self, title: &str, node: &Value, page: &mut String) {
        let _ = writeln!(page, ".Ss {title}");
        if node["properties"].is_object() {
            *page += &node["description"].as_str().map(sentence).unwrap_or_default();
            *page += ".Bl -tag -width Ds\n";
            self.members(node, "", page);
            *page += ".El\n";
        } else {
            let _ = writeln!(page, "{}.", capitalised(&self.type_of(node)));
            *page += &words(node);
        }
    }

    fn reference(&self) -> String {
        let mut page = String::new();
        self.subsection("report", &self.0, &mut page);
        for (name, node) in self.0["$defs"].as_object().unwrap() {
            if self.has_subsection(name) {
                self.subsection(name, node, &mut page);
            }
        }
        page
    }
}

/// An object that has the members of every object that a value of this node can be.
fn cases_as_one(node: &Value) -> Value {
    let mut one = json!({"properties": {}, "required": null});
    let cases = node["oneOf"].as_array().into_iter().flatten();
    for case in [node, &node["items"]].into_iter().chain(cases).filter(|case| case["properties"].is_object()) {
        for (name, member) in case["properties"].as_object().unwrap() {
            let known = &mut one["properties"][name];
            let all: Vec<Value> = [values(known), values(member)].into_iter().flatten().flatten().collect();
            *known = member.clone();
            if !all.is_empty() {
                *known = json!({"enum": all});
            }
        }
        let required = case["required"].as_array().cloned().unwrap_or_default();
        match &mut one["required"] {
            Value::Array(all) => all.retain(|name| required.contains(name)),
            first => *first = required.into(),
        }
    }
    one
}

fn words(node: &Value) -> String {
    let mut words = node["description"].as_str().map(sentence).unwrap_or_default();
    for node in [node, &node["items"]] {
        let names: Vec<String> = values(node)
            .unwrap_or_default()
            .iter()
            .filter_map(|value| value.as_str())
            .map(|name| format!("\"{name}\""))
            .collect();
        if !names.is_empty() {
            let _ = writeln!(words, "One of\n.Cm {} .", names.join(" , "));
        }
    }
    words
}

fn reference(node: &Value) -> Option<&str> {
    node["$ref"].as_str()?.strip_prefix("#/$defs/")
}

fn values(node: &Value) -> Option<Vec<Value>> {
    node["enum"].as_array().cloned().or_else(|| node.get("const").map(|value| vec![value.clone()]))
}

fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::String(_) => "string",
        Value::Number(_) => "integer",
        other => panic!("{other}"),
    }
    .to_owned()
}

fn sentence(words: &str) -> String {
    // A line that begins with a full stop would be a macro.
    format!("{}.\n", words.trim_end_matches('.').replace(". ", ".\n").replace('\\', "\\e"))
}

fn capitalised(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

#[test]
fn page_matches_the_schema() {
    let text = std::fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the mark where the reference begins");
    let (now, after) = rest.split_once(END).expect("the mark where it ends");
    let reference = Schema::read().reference();
    if std::env::var_os("UPDATE_JSON_PAGE").is_some() {
        std::fs::write(page(), format!("{before}{BEGIN}{reference}{END}{after}")).unwrap();
    } else {
        let differs = now.lines().zip(reference.lines()).find(|(now, then)| now != then);
        assert_eq!(now, reference, "{differs:?}: UPDATE_JSON_PAGE=1 writes it anew");
    }
}
