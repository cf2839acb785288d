//! YAML as the value that JSON would have had.
//!
//! Of YAML what vendors' tools write: one document of mappings, lists and scalars. Anchors, tags
//! and complex keys are refused, so that a small file cannot become a large value.

use serde_json::{Map, Value};
use yaml_rust2::Event;
use yaml_rust2::parser::Parser;
use yaml_rust2::scanner::{Marker, TScalarStyle};

/// How deep values may stand in each other; the specification's have 7.
const MAX_DEPTH: usize = 16;

/// A list or mapping that is not complete yet.
enum Open {
    List(Vec<Value>),
    Mapping(Map<String, Value>, Option<String>),
}

/// The file's only document. The error says where and what.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut parser = Parser::new_from_str(text);
    let (mut open, mut root, mut documents) = (Vec::new(), None, 0);
    loop {
        let (event, mark) = parser.next_token().map_err(|error| error.to_string())?;
        let at = |what: &str| format!("line {}: {what}", mark.line());
        match event {
            Event::StreamEnd => return Ok(root.unwrap_or(Value::Null)),
            Event::DocumentStart => {
                documents += 1;
                if documents > 1 {
                    return Err(at("there is a second document: write one a file"));
                }
            }
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            Event::Alias(_) => return Err(at("aliases are not taken: write the value out")),
            Event::Scalar(_, _, 1.., _)
            | Event::SequenceStart(1.., _)
            | Event::MappingStart(1.., _) => {
                return Err(at("anchors are not taken: write the values out"));
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => return Err(at("tags are not taken")),
            Event::SequenceStart(..) => push(&mut open, Open::List(Vec::new()), mark)?,
            Event::MappingStart(..) => push(&mut open, Open::Mapping(Map::new(), None), mark)?,
            Event::Scalar(text, style, ..) => scalar(&mut open, &mut root, text, style, mark)?,
            Event::SequenceEnd | Event::MappingEnd => {
                let value = match open.pop() {
                    Some(Open::List(values)) => Value::Array(values),
                    Some(Open::Mapping(values, _)) => Value::Object(values),
                    None => return Err(at("something ends that has not begun")),
                };
                place(&mut open, &mut root, value, mark)?;
            }
        }
    }
}

fn push(open: &mut Vec<Open>, next: Open, mark: Marker) -> Result<(), String> {
    if open.len() == MAX_DEPTH {
        let line = mark.line();
        return Err(format!(
            "line {line}: values stand more than {MAX_DEPTH} deep"
        ));
    }
    if let Some(Open::Mapping(_, None)) = open.last() {
        return Err(format!(
            "line {}: a key is a list or a mapping",
            mark.line()
        ));
    }
    open.push(next);
    Ok(())
}

/// A key, or a value.
fn scalar(
    open: &mut [Open],
    root: &mut Option<Value>,
    text: String,
    style: TScalarStyle,
    mark: Marker,
) -> Result<(), String> {
    if let Some(Open::Mapping(values, key @ None)) = open.last_mut() {
        if values.contains_key(&text) {
            return Err(format!("line {}: `{text}` stands here twice", mark.line()));
        }
        *key = Some(text);
        return Ok(());
    }
    let value = match style {
        TScalarStyle::Plain => plain(text).map_err(|why| format!("line {}: {why}", mark.line()))?,
        _ => Value::String(text),
    };
    place(open, root, value, mark)
}

/// Where the value belongs that is complete now.
fn place(
    open: &mut [Open],
    root: &mut Option<Value>,
    value: Value,
    mark: Marker,
) -> Result<(), String> {
    match open.last_mut() {
        None => *root = Some(value),
        Some(Open::List(values)) => values.push(value),
        Some(Open::Mapping(values, key)) => {
            let key = key.take();
            let key = key.ok_or_else(|| format!("line {}: a value has no key", mark.line()))?;
            values.insert(key, value);
        }
    }
    Ok(())
}

/// What a text without quotes means.
fn plain(text: String) -> Result<Value, String> {
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    Ok(match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        // 0666 is 438 in YAML 1.1 and 666 in 1.2.
        _ if is_number && digits.len() > 1 && digits.starts_with('0') => {
            return Err(format!(
                "`{text}` can be read in two ways: write the number without zeros in front, or a \
                 text in quotes"
            ));
        }
        _ if is_number => match text.parse::<i64>() {
            Ok(number) => Value::from(number),
            Err(_) => return Err(format!("{text} is too large a number")),
        },
        _ => Value::String(text),
    })
}
