//! What a file holds is read, or it is told that it was not.

use polars::prelude::{
    Column, DataFrame, DataType, IntoSeries, NamedFrom, ParquetWriter, Series, StructChunked, TimeUnit,
    TimeZone,
};

use super::*;

/// The rows' texts, one list a row, and the reasons of those set aside.
fn texts_of(name: &str, bytes: &[u8]) -> (Vec<Vec<String>>, Vec<String>) {
    let (records, dropped, _) = read(name, bytes);
    let texts = records.iter().map(|r| r.texts().into_iter().map(|(_, text)| text.to_owned()).collect());
    (texts.collect(), dropped.into_iter().map(|d| d.reason).collect())
}

fn error_of(name: &str, bytes: &[u8]) -> String {
    let (_folder, path) = file(name, bytes);
    open(&path, &ReadOptions::default()).unwrap_err().to_string()
}

fn one(row: &Value) -> (Vec<Record>, Vec<Dropped>) {
    let (records, dropped, _) = read("rows.jsonl", row.to_string().as_bytes());
    (records, dropped)
}

fn pair_of(row: &Value) -> PreferencePair {
    let (records, dropped) = one(row);
    assert_eq!(dropped, [], "{row}");
    records.into_iter().next().and_then(|r| r.item.into_pair()).unwrap_or_else(|| panic!("{row}"))
}

fn said(turns: &[Message]) -> Vec<(&str, &str)> {
    turns.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn arrays_go_on_behind_each_other() {
    let check = |text: &str, rows: &[&str], reasons: &[&str]| {
        let (texts, dropped) = texts_of("a.json", text.as_bytes());
        let dropped: Vec<&str> = dropped.iter().map(String::as_str).collect();
        assert_eq!((texts.concat().as_slice(), dropped.as_slice()), (&owned(rows)[..], reasons), "{text}");
    };
    check("[{\"text\": \"a\"}]\n[{\"text\": \"b\"}, {\"text\": \"c\"}]\n", &["a", "b", "c"], &[]);
    check("[{\"text\": \"a\"}][][{\"text\": \"b\"}] \n", &["a", "b"], &[]);
    check("[{\"text\": \"a\"}]\n{\"text\": \"b\"}\n", &["a"], &["malformed_json"]);
    check("[{\"text\": \"a\"}]]", &["a"], &["malformed_json"]);
    check("[{\"text\": \"a\"}] and so on", &["a"], &["malformed_json"]);
    let (_, dropped, _) = read("a.json", b"[{\"text\": \"a\"},\n{\"text\": \"b\"}]\n{\"text\": \"c\"}\n");
    assert_eq!((dropped[0].origin.line, dropped[0].row.as_str()), (3, Some("{\"text\": \"c\"}\n")));
    assert!(dropped[0].detail.starts_with("line 3: "), "{}", dropped[0].detail);
}

#[test]
fn an_array_called_json_lines_is_known_by_its_content() {
    let check = |text: &str, format: Format, rows: &[&str]| {
        let (_folder, path) = file("a.jsonl", text.as_bytes());
        let (records, _, detection) = open(&path, &ReadOptions::default()).unwrap();
        let texts: Vec<&str> = records.iter().flat_map(Record::texts).map(|(_, text)| text).collect();
        assert_eq!((detection.format, texts.as_slice()), (format, rows), "{text}");
    };
    check("[{\"text\": \"a\"}, {\"text\": \"b\"}]\n", Format::Json, &["a", "b"]);
    check("\n[\n  {\n    \"text\": \"a\"\n  },\n  {\"text\": \"b\"}\n]\n", Format::Json, &["a", "b"]);
    // A bad first line does not make the others an array.
    check("[1, 2]\n{\"text\": \"a\"}\n", Format::Jsonl, &["a"]);
    check("[info] started\n{\"text\": \"a\"}\n", Format::Jsonl, &["a"]);
    check("[{\"role\": \"user\", \"content\": \"x\"}]\n{\"text\": \"a\"}\n", Format::Jsonl, &["a"]);
}

#[test]
fn kto_labels_are_read_as_every_tool_writes_them() {
    let check = |label: Value, expect: bool| {
        let row = json!({"prompt": "Hi", "completion": "Hello", "label": label});
        let (records, _, detection) = read("k.jsonl", row.to_string().as_bytes());
        assert_eq!((detection.shape, &records[0].meta()["label"]), (Shape::Kto, &json!(expect)), "{row}");
    };
    for (yes, no) in [
        (json!(1.0), json!(0.0)),
        (json!("1.0"), json!("0.0")),
        (json!(" True"), json!("FALSE")),
        (json!(1), json!(0)),
        (json!("desirable"), json!("undesirable")),
    ] {
        check(yes, true);
        check(no, false);
    }
    let (records, dropped, detection) =
        read("k.csv", b"prompt,completion,label\nHi,Hello,1.0\nHi,What?,0.0\nHi,Hm,\nHi,Ho,yes perhaps\n");
    assert_eq!(detection.shape, Shape::Kto);
    assert_eq!(records.iter().map(|r| r.meta()["label"].clone()).collect::<Vec<_>>(), [true, false]);
    let told: Vec<_> = dropped.iter().map(|d| (d.origin.line, d.reason.as_str())).collect();
    assert_eq!(told, [(4, "missing_field"), (5, "bad_value")], "within the sample too");
    assert!(dropped[1].detail.contains("yes perhaps"), "{}", dropped[1].detail);
    // Where most rows are no verdicts, the column is something else.
    let (records, dropped, detection) =
        read("k.csv", b"prompt,completion,label\na,b,sport\nc,d,1\ne,f,news\n");
    assert_eq!((detection.shape, records.len(), dropped.len()), (Shape::PromptCompletion, 3, 0));
}

#[test]
fn kto_rows_as_llama_factory_writes_alpaca_keep_their_instruction() {
    for input in [json!({"input": ""}), json!({})] {
        let mut row = json!({"instruction": "Hi", "output": "Hello", "kto_tag": false});
        row.as_object_mut().unwrap().extend(input.as_object().unwrap().clone());
        check(
            &row,
            Shape::Kto,
            &json!({"id": "rows-1", "messages": [{"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"}], "meta": {"label": false}}),
        );
    }
}

#[test]
fn tools_of_pairs_reach_the_template() {
    let tool = json!({"type": "function", "function": {"name": "find"}});
    let turn = |text: &str| json!({"role": "assistant", "content": text});
    let of = |row: &Value| pair_of(row).meta;
    let openai = of(&json!({"input": {"messages": [{"role": "user", "content": "Hi"}], "tools": [tool],
        "parallel_tool_calls": true}, "preferred_output": [turn("a")], "non_preferred_output": [turn("b")]}));
    assert_eq!(json!(openai), json!({"tools": [tool], "parallel_tool_calls": true}));
    let factory = |tools: Value| {
        of(&json!({"conversations": [{"from": "human", "value": "Hi"}], "tools": tools,
            "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}))
    };
    assert_eq!(factory(json!("[{\"name\": \"find\"}]")), openai_tools(&tool));
    assert_eq!(factory(json!([{"name": "find"}])), openai_tools(&tool));
    assert_eq!(factory(json!("[]")), Map::new());
    let (_, dropped) = one(&json!({"prompt": "p", "chosen": "a", "rejected": "b", "tools": "a hammer"}));
    assert_eq!(dropped[0].reason, "bad_value");
    let alpaca = one(&json!({"instruction": "Hi", "output": "a", "tools": "[{\"name\": \"find\"}]"})).0;
    let Item::Chat(chat) = &alpaca[0].item else { panic!("{alpaca:?}") };
    assert_eq!(chat.tools, [tool]);
}

fn openai_tools(tool: &Value) -> Map<String, Value> {
    Map::from_iter([("tools".to_owned(), json!([tool]))])
}

#[test]
fn tool_calls_in_any_form_are_kept_or_refused() {
    let call = json!({"type": "function", "function": {"name": "find", "arguments": "{}"}});
    let inner = call["function"].clone();
    let last = |more: Value| {
        let mut turn = json!({"role": "assistant", "content": null});
        turn.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (records, dropped) = one(&json!({"messages": [{"role": "user", "content": "Hi"}, turn]}));
        match records.into_iter().next().map(|r| r.item) {
            Some(Item::Chat(chat)) => Ok(chat.messages[1].tool_calls.clone()),
            _ => Err(dropped[0].reason.clone()),
        }
    };
    let (kept, none) = (Ok(vec![call.clone()]), Ok(vec![]));
    for form in [call.clone(), json!([call]), json!(call.to_string()), json!(json!([call]).to_string())] {
        assert_eq!(last(json!({"tool_calls": form})), kept, "{form}");
    }
    for form in [inner.clone(), json!(inner.to_string())] {
        assert_eq!(last(json!({"function_call": form})), kept, "{form}");
    }
    for form in [json!(null), json!(""), json!([]), json!({"name": null, "arguments": null})] {
        assert_eq!(last(json!({"tool_calls": form, "function_call": null})), none, "{form}");
    }
    for form in [json!("find"), json!(5), json!(["find"]), json!("[1]"), json!("\"find\"")] {
        assert_eq!(last(json!({"tool_calls": form})), Err("bad_value".to_owned()), "{form}");
        assert_eq!(last(json!({"function_call": form})), Err("bad_value".to_owned()), "{form}");
    }
}

#[test]
fn functions_beside_empty_tools_are_the_tools() {
    for empty in [json!(null), json!([]), json!(""), json!("[]")] {
        let row = json!({"messages": [{"role": "user", "content": "Hi"}], "tools": empty,
            "functions": [{"name": "find"}]});
        let (records, dropped) = one(&row);
        assert_eq!(dropped, [], "{row}");
        let Item::Chat(chat) = &records[0].item else { panic!("{row}") };
        assert_eq!(chat.tools, [json!({"type": "function", "function": {"name": "find"}})], "{row}");
        assert!(chat.meta.is_empty(), "{:?}", chat.meta);
    }
}

#[test]
fn rounds_of_an_arena_are_two_whole_chats() {
    let csv = |a: &str, b: &str, winner: &str| {
        let cell = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let asked = cell(r#"["Is it right?","And now?"]"#);
        let head =
            "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n";
        format!("{head}7,x,y,{asked},{},{},{winner}\n", cell(a), cell(b))
    };
    let read = |a: &str, b: &str, winner: &str| read("arena.csv", csv(a, b, winner).as_bytes());
    // The same first answer belongs to the prompt.
    let (records, dropped, detection) = read(r#"["Yes.","Still."]"#, r#"["Yes.","No."]"#, "1,0,0");
    assert_eq!((dropped, detection.shape), (vec![], Shape::Preference));
    let Item::Pair(pair) = &records[0].item else { panic!("{records:?}") };
    assert_eq!(said(&pair.prompt), [("user", "Is it right?"), ("assistant", "Yes."), ("user", "And now?")]);
    assert_eq!(
        (said(&pair.chosen), said(&pair.rejected)),
        (vec![("assistant", "Still.")], vec![("assistant", "No.")])
    );
    assert_eq!(json!(pair.meta)["model_a"], "x");
    // Other first answers: the chats part there.
    let (records, ..) = read(r#"["Yes.","Still."]"#, r#"["No.","No."]"#, "0,1,0");
    let Item::Pair(pair) = &records[0].item else { panic!("{records:?}") };
    assert_eq!(said(&pair.prompt), [("user", "Is it right?")]);
    assert_eq!(said(&pair.chosen), [("assistant", "No."), ("user", "And now?"), ("assistant", "No.")]);
    assert_eq!(said(&pair.rejected), [("assistant", "Yes."), ("user", "And now?"), ("assistant", "Still.")]);
    for (a, winner, reason) in [
        (r#"["Yes.","Still."]"#, "0,0,1", "no_preference"),
        (r#"["Yes."]"#, "1,0,0", "bad_value"),
        (r#"["Yes.",null]"#, "1,0,0", "bad_value"),
        (r#"["Yes.","\ud83d"]"#, "1,0,0", "bad_value"),
    ] {
        let (records, dropped, _) = read(a, r#"["No.","No."]"#, winner);
        assert_eq!((records.len(), dropped[0].reason.as_str()), (0, reason), "{a}");
    }
    // An answer that is a list by itself stays what it is.
    let row = json!({"prompt": "Three names as JSON", "response_a": "[\"a\", \"b\"]", "response_b": "a, b", "winner": "a"});
    assert_eq!(pair_of(&row).chosen[0].content, "[\"a\", \"b\"]");
}

#[test]
fn whole_chats_keep_their_standing_instructions() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let chat = |answer: &str| json!([turn("user", "Hi"), turn("assistant", answer)]);
    let row = |more: Value| {
        let mut row = json!({"chosen": chat("a"), "rejected": chat("b")});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let check = |row: &Value, opening: &[(&str, &str)], meta: Value| {
        let pair = pair_of(row);
        assert_eq!(said(&pair.prompt), [opening, &[("user", "Hi")]].concat(), "{row}");
        assert_eq!((json!(pair.meta), said(&pair.chosen)), (meta, vec![("assistant", "a")]), "{row}");
    };
    let (none, terse) = (json!({}), [("system", "Be terse.")]);
    check(&row(json!({"system": "Be terse."})), &terse, none.clone());
    let prompt = json!([turn("system", "Be terse."), turn("user", "Hi")]);
    check(&row(json!({"prompt": prompt})), &terse, none.clone());
    check(&row(json!({"prompt": prompt.to_string()})), &terse, none.clone());
    let developer = json!([turn("developer", "Be brief."), turn("user", "Hi")]);
    check(&row(json!({"prompt": developer})), &[("developer", "Be brief.")], none.clone());
    // The prompt's own goes before the column, which is kept.
    let both = row(json!({"prompt": prompt, "system": "Be kind."}));
    check(&both, &terse, json!({"system": "Be kind."}));
    check(&row(json!({"prompt": "Hi", "system": null})), &[], none.clone());
    check(&row(json!({"prompt": [turn("nobody", "?")]})), &[], none.clone());
    // What the chats themselves say goes before both.
    let own =
        |answer: &str| json!([turn("system", "Be terse."), turn("user", "Hi"), turn("assistant", answer)]);
    let own = json!({"prompt": developer, "chosen": own("a"), "rejected": own("b")});
    check(&own, &terse, none.clone());
    let rounds = json!({"prompt": ["Hi"], "response_a": ["a"], "response_b": ["b"], "winner": "a", "system": "Be terse."});
    assert_eq!(said(&pair_of(&rounds).prompt), [terse[0], ("user", "Hi")]);
}

#[test]
fn numbers_and_booleans_are_answers() {
    let (texts, dropped) = texts_of("q.csv", b"question,answer\nWhat is 2+2?,4\nIs it?,true\nWho?,Ada\n");
    assert_eq!(
        (texts, dropped),
        (
            vec![
                vec!["What is 2+2?".into(), "4".into()],
                vec!["Is it?".into(), "true".into()],
                vec!["Who?".into(), "Ada".into()]
            ],
            vec![]
        )
    );
    // A figure under a name that is not only an answer's does not make a text a question.
    let (records, _, detection) = read("d.jsonl", br#"{"body": "A mail.", "reply": true}"#);
    assert_eq!((detection.shape, records.len()), (Shape::Document, 1));
}

#[test]
fn late_accents_decide_the_encoding() {
    let rows = |accent: &[u8]| {
        let mut bytes = b"question,answer\n".to_vec();
        while bytes.len() < 600 << 10 {
            bytes.extend_from_slice(b"Where is it all this time?,It is on its way to you.\n");
        }
        [&bytes[..], b"caf", accent, b"?,yes\n"].concat()
    };
    let check = |name: &str, bytes: &[u8], is_old: bool| {
        let (records, dropped, detection) = read(name, bytes);
        assert_eq!(dropped, []);
        assert_eq!(records.last().unwrap().texts()[0].1, "caf\u{e9}?");
        assert_eq!(detection.to_string().contains("windows-1252"), is_old, "{detection}");
    };
    check("t.csv", &rows(b"\xe9"), true);
    check("t.csv", &rows("\u{e9}".as_bytes()), false);
    check("t.csv.zst", &zstd::encode_all(&rows(b"\xe9")[..], 1).unwrap(), true);
    let (_, dropped, _) = read("t.csv", b"question,answer\ncaf\xc3\xa9?,yes it is\ncaf\xe9?,no\n");
    assert!(dropped[0].detail.contains("`[read] encoding = "), "{}", dropped[0].detail);
}

/// A Parquet file of some columns.
fn parquet(columns: Vec<Column>) -> (TempDir, PathBuf) {
    let (folder, path) = file("t.parquet", b"");
    let mut frame = DataFrame::new(columns[0].len(), columns).unwrap();
    ParquetWriter::new(fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    (folder, path)
}

fn bytes_column(name: &str, cells: &[Option<&[u8]>]) -> Column {
    Series::new(name.into(), cells.to_vec()).into()
}

#[test]
fn parquet_bytes_are_texts_where_they_can_be_and_told_where_not() {
    let asked: [Option<&[u8]>; 3] = [Some("Gr\u{f6}\u{df}e?".as_bytes()), Some(b"Where?"), None];
    let answers = Column::new("answer".into(), ["Innen.", "Here.", "x"]);
    let picture: [Option<&[u8]>; 3] = [Some(b"\xff\xd8\xff"), None, Some(b"\xff")];
    let (_folder, path) =
        parquet(vec![bytes_column("question", &asked), answers.clone(), bytes_column("picture", &picture)]);
    let (records, dropped, detection) = open(&path, &ReadOptions::default()).unwrap();
    assert_eq!(records.iter().map(|r| r.texts()[0].1).collect::<Vec<_>>(), ["Gr\u{f6}\u{df}e?", "Where?"]);
    assert_eq!((dropped[0].origin.line, dropped[0].reason.as_str()), (3, "missing_field"));
    assert!(detection.to_string().contains("cannot be read: picture"), "{detection}");
    let (_folder, path) = parquet(vec![bytes_column("question", &picture), answers.clone()]);
    let error = open(&path, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("[answer] (left out, of a type that cannot be read: question)"), "{error}");
    let (_folder, path) = parquet(vec![bytes_column("question", &picture)]);
    let error = open(&path, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("every column is of a type that cannot be read: question"), "{error}");
}

#[test]
fn a_parquet_cell_that_is_no_text_after_many_that_are_sets_its_row_aside() {
    let mut cells: Vec<Option<&[u8]>> = vec![Some(b"Where?"); 300];
    cells[250] = Some(b"caf\xe9");
    let answers = Column::new("answer".into(), vec!["Here."; 300]);
    let (_folder, path) = parquet(vec![bytes_column("question", &cells), answers]);
    let (records, dropped, _) = open(&path, &ReadOptions::default()).unwrap();
    assert_eq!((records.len(), dropped.len()), (299, 1));
    let Dropped { origin, reason, detail, .. } = &dropped[0];
    assert_eq!((origin.line, reason.as_str(), detail.as_str()), (251, "not_utf8", "column `question`"));
}

#[test]
fn parquet_pictures_in_lists_zones_and_empty_columns_make_no_noise() {
    let path_column = Series::new("path".into(), ["a.png", "b.png"]);
    let bytes = Series::new("bytes".into(), [&b"\xff\xd8"[..], b"\xff"]);
    let pictures = StructChunked::from_series("images".into(), 2, [bytes, path_column].iter()).unwrap();
    let pictures = pictures.into_series().implode().unwrap().into_series().with_name("images".into());
    let berlin = TimeZone::opt_try_new(Some("Europe/Berlin")).unwrap();
    let at = Series::new("at".into(), [0i64]).into_datetime(TimeUnit::Microseconds, berlin);
    let columns = vec![
        Column::new("text".into(), ["A page."]),
        at.into(),
        pictures.into(),
        Series::full_null("nothing".into(), 1, &DataType::Null).into(),
    ];
    let (_folder, path) = parquet(columns);
    let this = std::thread::current().id();
    let n_panics = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = n_panics.clone();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |_| {
        let is_here = std::thread::current().id() == this;
        counter.fetch_add(usize::from(is_here), std::sync::atomic::Ordering::Relaxed);
    }));
    let (records, _, detection) = open(&path, &ReadOptions::default()).unwrap();
    std::panic::set_hook(usual);
    assert_eq!(n_panics.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!((records.len(), records[0].texts()[0].1), (1, "A page."));
    assert_eq!(json!(records[0].meta()), json!({"at": "1970-01-01T00:00:00+00:00"}));
    assert!(detection.to_string().contains("cannot be read: images"), "{detection}");
    assert!(!detection.to_string().contains("nothing"), "{detection}");
}

#[test]
fn ties_in_lists_are_no_preference() {
    for row in [
        json!({"prompt": "p", "answers": ["x", "y", "z"], "scores": [1, 1, 1]}),
        json!({"prompt": "p", "responses": ["x", "y"], "ranks": [2, 2]}),
        json!({"prompt": "p", "completions": [{"text": "x", "rating": 0.5}, {"text": "y", "rating": "0.5"}]}),
    ] {
        let (records, dropped) = one(&row);
        assert_eq!((records.len(), dropped[0].reason.as_str()), (0, "no_preference"), "{row}");
    }
    let nan = json!({"prompt": "p", "answers": ["x", "y"], "scores": ["NaN", "NaN"]});
    assert!(error_of("rows.jsonl", nan.to_string().as_bytes()).contains("no known shape"));
}

#[test]
fn one_row_keeps_its_lists() {
    let check = |row: Value, shape: Shape| {
        let (records, dropped, detection) = read("one.json", row.to_string().as_bytes());
        assert_eq!((detection.shape, records.len(), dropped.len()), (shape, 1, 0), "{row}: {detection}");
        records
    };
    let tools = json!([{"name": "find", "parameters": {}}, {"name": "buy", "parameters": {}}]);
    let records =
        check(json!({"prompt": "Hi", "completion": "Hello", "tools": tools}), Shape::PromptCompletion);
    let Item::Chat(chat) = &records[0].item else { panic!("{records:?}") };
    assert_eq!(chat.tools.len(), 2);
    check(json!({"instruction": "Hi", "output": "Hello", "tools": tools}), Shape::Alpaca);
    check(json!({"text": "A page.", "tools": tools}), Shape::Document);
    check(
        json!({"question": "Hi", "answer": "Hello", "sources": [{"title": "x"}, {"title": "y"}]}),
        Shape::Tickets,
    );
    check(
        json!({"prompt": "Hi", "answers": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]}),
        Shape::Preference,
    );
    // Around rows it is none.
    let around =
        json!({"name": "faq", "data": [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]});
    assert_eq!(read("one.json", around.to_string().as_bytes()).0.len(), 2);
}

#[test]
fn evidence_names_the_columns_that_decided() {
    let evidence = |row: Value| read("rows.jsonl", row.to_string().as_bytes()).2.evidence.concat();
    let told = evidence(json!({"a": 1, "or": 2, "in": 3, "list": 4, "prompt": "p", "completion": "c"}));
    assert!(told.ends_with("(`prompt`, `completion`)"), "{told}");
    let told = evidence(json!({"two": 1, "chosen": "Well: a", "rejected": "Well: b"}));
    assert!(told.ends_with("(`chosen`, `rejected`)"), "{told}");
    let told = evidence(json!({"a": 1, "inputs": "p", "targets": "c"}));
    assert!(told.ends_with("(`a`, `inputs`, `targets`)"), "a rarer layout: {told}");
}

#[test]
fn columns_and_meta_of_one_name_are_both_kept() {
    let meta = |row: Value| json!(one(&row).0[0].meta());
    assert_eq!(
        meta(json!({"text": "x", "source": "column", "meta": {"source": "inner", "url": "u"}})),
        json!({"source": "column", "meta.source": "inner", "url": "u"})
    );
    assert_eq!(meta(json!({"text": "x", "source": "a", "meta": {"source": "a"}})), json!({"source": "a"}));
    assert_eq!(
        meta(json!({"prompt": "x", "completion": "y", "kto_tag": true, "label": "sport"})),
        json!({"label": true, "meta.label": "sport"})
    );
}

#[test]
fn evaluation_sets_hold_questions() {
    let row = json!({"id": "Q-1", "question": "Which cards?", "reference": "Visa.", "documents": ["payment"], "category": "x"});
    let turns =
        json!([{"role": "user", "content": "Which cards?"}, {"role": "assistant", "content": "Visa."}]);
    check(
        &row,
        Shape::Tickets,
        &json!({"id": "Q-1", "messages": turns, "meta": {"documents": ["payment"], "category": "x"}}),
    );
    let row = json!({"id": "Q-1", "question": "Which cards?", "documents": ["payment"], "category": "x", "level": 3});
    check(
        &row,
        Shape::Questions,
        &json!({"id": "Q-1", "messages": [turns[0]], "meta": {"documents": ["payment"], "category": "x", "level": 3}}),
    );
    assert_eq!(read("q.csv", b"question\nWhich cards?\nWhere?\n").0.len(), 2);
    // A desk's reference is a number to quote.
    assert!(error_of("t.csv", b"description,reference\nIt broke,TKT-1\n").contains("no known shape"));
    // What may be an answer under another name must be named.
    assert!(error_of("t.csv", b"question,what we said\nWhere?,Here\n").contains("no known shape"));
    assert!(
        error_of("t.jsonl", br#"{"question": "Where?", "all_answers": ["a"]}"#).contains("no known shape")
    );
    let mixed = b"{\"question\": \"a\"}\n{\"question\": \"b\", \"we said\": \"c\"}\n";
    assert!(error_of("t.jsonl", mixed).contains("no known shape"));
    // Beside rows with answers, one without lacks it.
    let (records, dropped, _) =
        read("t.jsonl", b"{\"question\": \"a\"}\n{\"question\": \"b\", \"answer\": \"c\"}\n");
    assert_eq!((records.len(), dropped[0].reason.as_str()), (1, "missing_field"));
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bluesky/questions.jsonl");
    let (records, dropped, detection) = open(&shop, &ReadOptions::default()).unwrap();
    assert_eq!((records.len(), dropped.len(), detection.shape), (88, 0, Shape::Tickets), "{detection}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn arrays_cut_anywhere_give_the_same_rows(
        texts in prop::collection::vec(any_text(), 1..8),
        cuts in prop::collection::vec(any::<bool>(), 8),
        gap in "[ \n\r\t]{0,3}",
    ) {
        let mut bytes = String::from("[");
        for (i, text) in texts.iter().enumerate() {
            if i > 0 {
                bytes += &if cuts[i] { ["]", gap.as_str(), "["].concat() } else { [gap.as_str(), ","].concat() };
            }
            bytes.push_str(&json!({"text": text}).to_string());
        }
        bytes.push(']');
        let (read, dropped) = texts_of("a.json", bytes.as_bytes());
        prop_assert_eq!((read.concat(), dropped), (texts, vec![]));
    }

    #[test]
    fn no_value_of_a_row_is_lost(
        columns in prop::collection::btree_map("[a-d]", 0..3u8, 0..4),
        inner in prop::collection::btree_map("(meta\\.)?[a-d]", 0..3u8, 0..4),
    ) {
        let mut row = json!({"text": "x", "meta": inner});
        row.as_object_mut().unwrap().extend(columns.iter().map(|(k, v)| (k.clone(), json!(v))));
        let meta = one(&row).0[0].meta().clone();
        for (key, value) in &columns {
            prop_assert_eq!(&meta[key], &json!(value));
        }
        for (key, value) in &inner {
            let at = meta.iter().any(|(k, v)| k.ends_with(key.as_str()) && *v == json!(value));
            prop_assert!(at, "{} of {:?}", key, meta);
        }
    }

    #[test]
    fn rounds_are_the_same_as_lists_and_as_texts(
        rounds in prop::collection::vec((any_text(), any_text(), any_text()), 1..4),
    ) {
        let list = |f: fn(&(String, String, String)) -> &String| json!(rounds.iter().map(f).collect::<Vec<_>>());
        let lists = [list(|r| &r.0), list(|r| &r.1), list(|r| &r.2)];
        let row = |of: &dyn Fn(&Value) -> Value| {
            json!({"prompt": of(&lists[0]), "response_a": of(&lists[1]), "response_b": of(&lists[2]), "winner": "a"})
        };
        let pair = pair_of(&row(&Value::clone));
        prop_assert_eq!(&pair, &pair_of(&row(&|list| json!(list.to_string()))));
        let whole = |answer: &[Message]| {
            pair.prompt.iter().chain(answer).map(|m| m.content.clone()).collect::<Vec<_>>()
        };
        let expect = |f: fn(&(String, String, String)) -> [&String; 2]| {
            rounds.iter().flat_map(f).cloned().collect::<Vec<_>>()
        };
        prop_assert_eq!(whole(&pair.chosen), expect(|r| [&r.0, &r.1]));
        prop_assert_eq!(whole(&pair.rejected), expect(|r| [&r.0, &r.2]));
    }

    #[test]
    fn a_label_is_one_verdict_in_every_spelling(number in prop_oneof![Just(0.0), Just(1.0), -2.0..3.0f64]) {
        let label = |label: Value| {
            let row = json!({"prompt": "Hi", "completion": "Hello", "label": label});
            let good = json!({"prompt": "Hi", "completion": "Hello", "label": true});
            let rows = format!("{good}\n{good}\n{row}\n");
            read("k.jsonl", rows.as_bytes()).0.get(2).map(|r| r.meta()["label"].clone())
        };
        let expect = (number == 0.0 || number == 1.0).then(|| json!(number == 1.0));
        prop_assert_eq!(label(json!(number)), expect.clone());
        prop_assert_eq!(label(json!(number.to_string())), expect.clone());
        prop_assert_eq!(label(json!(format!(" {number:?}"))), expect);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn windows_1252_is_read_wherever_its_first_accent_stands(at in 240_000..560_000usize) {
        let text = format!("text\n{}{}caf\u{e9} \u{201e}\u{fc}ber\u{201c}\n", format!("{}\n", "A page. ".repeat(124)).repeat(at / 993), "x".repeat(at % 993));
        let (bytes, ..) = encoding_rs::WINDOWS_1252.encode(&text);
        let (records, dropped, _) = read("t.csv", &bytes);
        prop_assert_eq!(dropped, vec![]);
        let last = records.last().unwrap().texts()[0].1.to_owned();
        prop_assert!(last.ends_with("caf\u{e9} \u{201e}\u{fc}ber\u{201c}"), "{}", last);
    }
}
