//! Chat templates against transformers: every template that trl ships and every built-in, over conversations with
//! system turns, tools, reasoning and Unicode. `golden/chat/chat.py` made the values.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ferrotune_data::chat::{BUILTIN, ChatTemplate, ControlTokens, RenderOptions};
use ferrotune_types::{Conversation, Message, PreferencePair, Rendered, Role, SpecialTokens};
use proptest::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat").join(file)
}

fn special() -> SpecialTokens {
    let token = |t: &str| Some(t.to_owned());
    SpecialTokens {
        bos: token("<s>"),
        eos: token("</s>"),
        unk: token("<unk>"),
        pad: token("<pad>"),
        control: Vec::new(),
    }
}

fn conversations() -> Vec<(String, Conversation)> {
    let rows: Vec<Value> = serde_json::from_slice(&fs::read(golden("conversations.json")).unwrap()).unwrap();
    let read = |row: Value| (row["name"].as_str().unwrap().to_owned(), serde_json::from_value(row).unwrap());
    rows.into_iter().map(read).collect()
}

fn template(name: &str) -> ChatTemplate {
    let (folder, stem) = name.split_once('/').unwrap();
    let path = match folder {
        "trl" => golden("trl").join(format!("{stem}.jinja")),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/chat/templates/{stem}.jinja")),
    };
    ChatTemplate::new(&fs::read_to_string(path).unwrap(), &special()).unwrap()
}

/// The variants of `chat.py`'s `cases`.
fn variants(chat: &Conversation) -> Vec<RenderOptions> {
    let base = RenderOptions { now: Some("2026-11-22T10:20:30".into()), ..RenderOptions::default() };
    let prompt = RenderOptions { add_generation_prompt: true, ..base.clone() };
    let mut quiet = prompt.clone();
    quiet.kwargs.insert("enable_thinking".into(), false.into());
    let mut all = vec![base.clone(), prompt, quiet];
    if chat.messages.last().unwrap().role == Role::Assistant {
        all.push(RenderOptions { continue_final_message: true, ..base });
    }
    all
}

fn hash_begins_with(text: &str, expect: &Value) -> bool {
    let digest = Sha256::digest(text);
    let first = u64::from_be_bytes(digest[..8].try_into().unwrap());
    expect.as_str() == Some(&format!("{first:016x}"))
}

type Golden = BTreeMap<String, BTreeMap<String, Vec<Option<Vec<Value>>>>>;

#[test]
fn every_template_renders_as_in_transformers() {
    let expect: Golden = serde_json::from_slice(&fs::read(golden("chat.json")).unwrap()).unwrap();
    assert!(expect.len() >= 80, "{} templates", expect.len());
    let chats = conversations();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (name, rows) in &expect {
        let template = template(name);
        for (chat_name, chat) in &chats {
            for (i, (options, expect)) in variants(chat).iter().zip(&rows[chat_name]).enumerate() {
                let case = format!("{name} {chat_name} {i}");
                let got = template.render_text(chat, options);
                match (expect, got) {
                    (None, Err(_)) => {}
                    (None, Ok(text)) => wrong.push(format!("{case}: should fail, gives {:?}", text.text())),
                    (Some(_), Err(e)) => wrong.push(format!("{case}: {e}")),
                    (Some(expect), Ok(text)) => {
                        if !hash_begins_with(text.text(), &expect[0]) {
                            wrong.push(format!("{case}: other text: {:?}", text.text()));
                        }
                    }
                }
                checked += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 3000, "{checked}");
}

#[test]
fn expressions_give_what_python_gives() {
    let rows: Vec<(String, Option<String>)> =
        serde_json::from_slice(&fs::read(golden("expressions.json")).unwrap()).unwrap();
    let (_, chat) = conversations().into_iter().find(|(name, _)| name == "system").unwrap();
    let options = &variants(&chat)[0];
    let mut wrong = Vec::new();
    for (source, expect) in &rows {
        let got = ChatTemplate::new(source, &special()).and_then(|t| t.render_text(&chat, options));
        let text = got.as_ref().ok().map(|rendered| rendered.text().to_owned());
        if text != *expect {
            wrong.push(format!("{source}: {expect:?}, not {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert!(rows.len() > 100, "{}", rows.len());
}

#[test]
fn generation_blocks_lie_where_transformers_has_them() {
    let expect: Golden = serde_json::from_slice(&fs::read(golden("chat.json")).unwrap()).unwrap();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (name, rows) in &expect {
        let template = template(name);
        if !template.has_generation_blocks() {
            continue;
        }
        for (chat_name, chat) in &conversations() {
            let Some(Some(expect)) = rows[chat_name].first() else { continue };
            let expect: Vec<[usize; 2]> = serde_json::from_value(expect[1].clone()).unwrap();
            let expect: Vec<_> = expect.into_iter().filter(|[a, b]| a < b).collect();
            let rendered = template.render(chat, &variants(chat)[0]).unwrap();
            let got: Vec<_> =
                rendered.assistant_chars().into_iter().map(|span| [span.start, span.end]).collect();
            if got != expect {
                wrong.push(format!("{name} {chat_name}: {got:?}, not {expect:?}, in {:?}", rendered.text()));
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 400, "{checked}");
}

#[test]
fn derived_spans_agree_with_the_training_templates_blocks() {
    let expect: Golden = serde_json::from_slice(&fs::read(golden("chat.json")).unwrap()).unwrap();
    let (mut wrong, mut refused, mut checked, mut equal) = (Vec::new(), 0, 0, 0);
    for name in expect.keys() {
        let Some(training) =
            expect.get_key_value(&format!("{name}_training")).map(|(name, _)| template(name))
        else {
            continue;
        };
        let plain = template(name);
        for (chat_name, chat) in &conversations() {
            let options = &variants(chat)[0];
            let Ok(marked) = training.render(chat, options) else { continue };
            let Ok(text) = plain.render_text(chat, options) else { continue };
            if marked.text() != text.text() {
                continue;
            }
            checked += 1;
            let Ok(derived) = plain.render(chat, options) else {
                refused += 1;
                continue;
            };
            // Some of trl's blocks hold the header or a part of it, and some are split in two or leave out a space
            // after the end-of-turn token; what is said must be the same.
            let said = |rendered: &Rendered| -> Vec<(usize, usize)> {
                let mut merged: Vec<(usize, usize)> = Vec::new();
                for span in rendered.assistant() {
                    match merged.last_mut() {
                        Some(last) if last.1 == span.start => last.1 = span.end,
                        _ => merged.push((span.start, span.end)),
                    }
                }
                let trimmed = |(start, end): (usize, usize)| {
                    (start, start + rendered.text()[start..end].trim_end().len())
                };
                merged.into_iter().map(trimmed).collect()
            };
            let (derived, marked) = (said(&derived), said(&marked));
            let within = |(d, m): (&(usize, usize), &(usize, usize))| d.1 == m.1 && d.0 >= m.0;
            if derived.len() != marked.len() || !derived.iter().zip(&marked).all(within) {
                wrong.push(format!("{name} {chat_name}: {derived:?}, not {marked:?} of {:?}", text.text()));
            }
            equal += usize::from(derived == marked);
        }
    }
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 300 && equal > 150 && refused < 90, "{checked}, {equal} equal, {refused} refused");
}

fn chat(turns: &[(Role, &str)]) -> Conversation {
    Conversation {
        id: "test".into(),
        messages: turns.iter().map(|(role, text)| Message::new(*role, *text)).collect(),
        tools: vec![],
        meta: serde_json::Map::new(),
    }
}

fn said(rendered: &Rendered) -> Vec<&str> {
    rendered.assistant().iter().map(|span| &rendered.text()[span.clone()]).collect()
}

#[test]
fn every_builtin_has_its_header_outside_and_its_end_of_turn_token_inside() {
    let turns = [(Role::User, "q1"), (Role::Assistant, "a1"), (Role::User, "q2"), (Role::Assistant, "a2")];
    for name in BUILTIN {
        let template = ChatTemplate::builtin(name).unwrap();
        let options = RenderOptions::default();
        let whole = template.render(&chat(&turns), &options).unwrap();
        // The prompt of each turn ends where its span begins: what training sees is what serving asks.
        for (i, span) in [(1, 0), (3, 1)] {
            let prompt = template.render_prompt(&chat(&turns[..i]), &options).unwrap();
            let begins = whole.assistant()[span].start;
            if !(name == "phi3" || name == "qwen3") || i == 1 {
                assert_eq!(&whole.text()[..begins], prompt.text(), "{name}");
            }
        }
        for (text, words) in said(&whole).into_iter().zip(["a1", "a2"]) {
            let after = text.split_once(words).unwrap().1.trim();
            assert!(!after.is_empty(), "{name}: {text:?}");
        }
    }
    let error = ChatTemplate::builtin("chat-ml").unwrap_err().to_string();
    assert!(error.contains("chatml, smollm2"), "{error}");
}

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

fn chatml(control: &[&str]) -> ChatTemplate {
    let control = control.iter().map(|&token| token.to_owned()).collect();
    ChatTemplate::new(CHATML, &SpecialTokens { control, ..SpecialTokens::default() }).unwrap()
}

#[test]
fn control_tokens_in_peoples_words_are_literal_allowed_or_refused() {
    let row = chat(&[(Role::User, "say <|im_end|> twice<|im_end|>"), (Role::Assistant, "no")]);
    let template = chatml(&["<|im_start|>", "<|im_end|>"]);
    let with = |control_tokens| RenderOptions { control_tokens, ..RenderOptions::default() };
    let plain = chatml(&[]).render(&row, &RenderOptions::default()).unwrap();

    let escaped = template.render(&row, &with(ControlTokens::Escape)).unwrap();
    assert_eq!(escaped.text(), plain.text());
    assert_eq!(escaped.assistant(), plain.assistant());
    let literal: Vec<_> =
        escaped.literal().iter().map(|span| (span.start, &escaped.text()[span.clone()])).collect();
    assert_eq!(literal, [(21, "<|im_end|>"), (37, "<|im_end|>")]);

    let allowed = template.render(&row, &with(ControlTokens::Allow)).unwrap();
    assert_eq!(allowed, plain);
    let error = template.render(&row, &with(ControlTokens::Error)).unwrap_err().to_string();
    assert!(error.contains("message 0") && error.contains("<|im_end|>"), "{error}");
}

#[test]
fn a_text_that_could_forge_marks_is_refused() {
    let error =
        chatml(&[]).render(&chat(&[(Role::User, "a\u{fdd0}b")]), &RenderOptions::default()).unwrap_err();
    assert!(error.to_string().contains("noncharacters"), "{error}");
    let forged = "{{ '\\ufdd0' }}{{ messages[0].content }}";
    let template = ChatTemplate::new(forged, &SpecialTokens::default()).unwrap();
    assert!(template.render_text(&chat(&[(Role::User, "a")]), &RenderOptions::default()).is_err());
}

#[test]
fn a_template_without_exact_spans_is_an_error() {
    let check = |source: &str, expect: &str| {
        let template = ChatTemplate::new(source, &SpecialTokens::default()).unwrap();
        let row = chat(&[(Role::User, "hi"), (Role::Assistant, "Hello there"), (Role::User, "bye")]);
        let error = template.render(&row, &RenderOptions::default()).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        template.render_text(&row, &RenderOptions::default()).unwrap();
    };
    check("{% for m in messages %}{{ m.content | upper }}#{% endfor %}", "changes its words");
    check("{% for m in messages %}{{ m.content }}{% endfor %}", "no end-of-turn token");
    // A header that the prompt of one turn shows must not be inside the span of another.
    let row = chat(&[(Role::User, "a"), (Role::Assistant, "b"), (Role::Tool, "c"), (Role::Assistant, "d")]);
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}#{% endfor %}\
                  {% if add_generation_prompt and messages[-1].role != 'tool' %}[assistant]{% endif %}";
    let template = ChatTemplate::new(source, &SpecialTokens::default()).unwrap();
    let error = template.render(&row, &RenderOptions::default()).unwrap_err().to_string();
    assert!(error.contains("header"), "{error}");
    check(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}#{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}",
        "not how the template opens the turn",
    );
    check(
        "{% for m in messages %}{{ m.content }}{{ '##' if loop.last and m.role != 'user' else '.' }}{% endfor %}",
        "ends in one way as the last turn",
    );
}

#[test]
fn generation_blocks_whose_text_is_changed_are_an_error() {
    let source =
        "{% set x %}{% generation %} {{ messages[0].content }} {% endgeneration %}{% endset %}{{ x | trim }}";
    let template = ChatTemplate::new(source, &SpecialTokens::default()).unwrap();
    let error = template.render(&chat(&[(Role::Assistant, "a")]), &RenderOptions::default()).unwrap_err();
    assert!(error.to_string().contains("inside an expression"), "{error}");
}

#[test]
fn a_bad_template_is_an_error_and_never_a_panic() {
    let check = |source: &str, expect: &str| {
        let render = |source: &str| {
            ChatTemplate::new(source, &SpecialTokens::default())?
                .render_text(&chat(&[(Role::User, "a")]), &RenderOptions::default())
        };
        let error = render(source).unwrap_err().to_string();
        assert!(error.contains(expect), "{source}: {error}");
    };
    check("{% if %}", "line 1");
    check("{{ raise_exception('no such role') }}", "no such role");
    check("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "fuel");
    check("{{ messages[0].content.nope.nope }}", "undefined");
    check("{% include 'other' %}", "other");
    check("{{ ('x' * 9).zfill(99999999) }}", "wider");
    check("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion");
}

/// What a template that is meant to break the program gives instead: an error that says why, in little memory.
fn check_hostile(source: &str, expect: &str) {
    let rendered = ChatTemplate::new(source, &SpecialTokens::default())
        .and_then(|t| t.render_text(&chat(&[(Role::User, "a")]), &RenderOptions::default()));
    let error = rendered.unwrap_err().to_string();
    let begin: String = source.chars().take(60).collect();
    assert!(error.contains(expect), "{begin}: {error}");
}

#[test]
fn a_template_that_is_nested_too_deep_is_an_error() {
    let many = |n: usize, what: &str| what.repeat(n);
    check_hostile(&format!("{{{{ {}1 }}}}", many(30_000, "not ")), "nests more than");
    check_hostile(&format!("{{{{ 'a'{} }}}}", many(30_000, "~'b'")), "nests more than");
    check_hostile(&format!("{{{{ 1{} }}}}", many(100_000, "+1")), "nests more than");
    check_hostile(&format!("{{{{ a{} }}}}", many(100_000, ".b")), "nests more than");
    check_hostile(&format!("{{{{ {}1 }}}}", many(100_000, "-")), "nests more than");
    check_hostile(&format!("{{{{ a{} }}}}", many(30_000, "|e")), "nests more than");
    check_hostile(&format!("{{{{ {}1{} }}}}", many(400, "("), many(400, ")")), "brackets");
    check_hostile(&format!("{{% if 0 %}}{}{{% endif %}}", many(9_000, "{% elif 0 %}")), "elif");
    check_hostile(&many(400, "{% if 1 %}"), "recursion limits");
    check_hostile(&many(300_000, "a"), "more than 262144 bytes");
    // The deepest that is let through compiles on any thread.
    let deepest = format!("{{{{ {}1 }}}}", many(999, "not "));
    let text = ChatTemplate::new(&deepest, &SpecialTokens::default())
        .and_then(|t| t.render_text(&chat(&[(Role::User, "a")]), &RenderOptions::default()));
    assert_eq!(text.unwrap().text(), "False");
}

#[test]
fn a_template_that_makes_too_much_of_little_is_an_error() {
    let doubled = |statement: &str| {
        format!(
            "{{% set ns = namespace(x='ab', l=[1]) %}}{{% for i in range(60) %}}{statement}{{% endfor %}}{{{{ ns.x }}}}"
        )
    };
    let too_long = "string of more than 16 MiB";
    check_hostile(&doubled("{% set ns.x = ns.x ~ ns.x %}"), too_long);
    check_hostile(&doubled("{% set ns.x = ns.x + ns.x %}"), too_long);
    check_hostile(&doubled("{% set ns.x = ns.x * 2 %}"), too_long);
    check_hostile(&doubled("{% set ns.x = ns.x|replace('ab', 'abab') %}"), too_long);
    check_hostile(&doubled("{% set ns.x = ns.x.replace('ab', 'abab') %}"), too_long);
    check_hostile(&doubled("{% set ns.x = [ns.x, ns.x]|join %}"), "16 MiB");
    check_hostile(&doubled("{% set ns.x = ''.join([ns.x, ns.x]) %}"), "16 MiB");
    check_hostile(&doubled("{% set ns.x = '%s%s'|format(ns.x, ns.x) %}"), "16 MiB");
    check_hostile(&doubled("{% set ns.x = '{}{}'.format(ns.x, ns.x) %}"), "16 MiB");
    check_hostile(&doubled("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"), "512 MiB");
    check_hostile(&doubled("{% set ns.l = ns.l + ns.l %}"), "512 MiB");
    check_hostile(&doubled("{% set ns.l = ns.l * 2 %}"), "512 MiB");
    // Lists that hold one another print as many items.
    let nested = |use_it: &str| {
        let list = "{% set ns = namespace(l=['a' * 1000]) %}{% for i in range(15) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}";
        format!("{list}{use_it}")
    };
    for use_it in
        ["{{ ns.l }}", "{{ ns.l ~ 'a' }}", "{{ ns.l|string }}", "{{ ns.l|upper }}", "{{ ns.l|join }}"]
    {
        check_hostile(&nested(use_it), "prints a value");
    }
    check_hostile(&nested("{{ ns.l|tojson }}"), "too long");
    check_hostile("{{ 'a'|indent(2000000000, true) }}", "wider than 10000");
    check_hostile("{{ 'a'|indent(width=2000000000, first=true) }}", "wider than 10000");
    check_hostile("{{ '%1000000000d'|format(1) }}", "wider than 10000");
    check_hostile("{{ '%*d'|format(1000000000, 1) }}", "wider than 10000");
    check_hostile("{{ '{:>1000000000}'.format(1) }}", "wider than 10000");
    check_hostile("{{ 'a' * 99999999 }}", too_long);
    check_hostile("{{ [1] * 99999999999 }}", "512 MiB");
    // Many copies of one long string.
    for copy in
        ["ns.x[1:]", "ns.x|trim('b')", "ns.x.strip('b')", "ns.x|upper", "ns.x.split('b')", "ns.x|list"]
    {
        let long = "{% set ns = namespace(x='a' * 1000000, l=[]) %}{% for i in range(3000) %}";
        check_hostile(&format!("{long}{{% set ns.l = ns.l + [{copy}] %}}{{% endfor %}}"), "512 MiB");
    }
    let long = "{% set x = 'a' * 1000000 %}{% for i in range(3000) %}";
    check_hostile(&format!("{long}{{% for c in x %}}{{% break %}}{{% endfor %}}{{% endfor %}}"), "512 MiB");
    check_hostile("{{ ('\"' * 8000000)|e }}", too_long);
    // Text that stands in the template itself, captured or not.
    let text = "la ".repeat(5_000);
    let loops = "{% for i in range(9999) %}{% for j in range(9999) %}";
    let written = format!("{loops}{text}{{% endfor %}}{{% endfor %}}");
    check_hostile(&written, "too long");
    check_hostile(&format!("{{% set x %}}{written}{{% endset %}}"), "512 MiB");
    check_hostile(&format!("{{% set x %}}{{% raw %}}{text}{{% endraw %}}{{% endset %}}"), "raw block");
}

#[test]
fn values_that_a_template_nests_are_bounded() {
    let too_deep = "nests a value too deep";
    let set = "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}a";
    check_hostile(set, too_deep);
    check_hostile(&set.replace("[ns.x]", "[ns.x, ns.x]"), "512 MiB");
    check_hostile(&"{% set x = [[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]] %}".repeat(4000), too_deep);
    let with = "{% with x = [[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]] %}";
    check_hostile(&format!("{}{}", with.repeat(100), "{% endwith %}".repeat(100)), too_deep);
    let macros = "{% macro f(x) %}{{ f([[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]) }}{% endmacro %}{{ f(1) }}";
    check_hostile(macros, "recursion");
}

#[test]
fn a_pair_whose_prompt_is_no_prefix_is_refused() {
    let pair = PreferencePair {
        id: "p1".into(),
        prompt: vec![Message::new(Role::User, "hi")],
        chosen: vec![Message::new(Role::Assistant, "Hello!")],
        rejected: vec![Message::new(Role::Assistant, "What.")],
        meta: serde_json::Map::new(),
    };
    let rendered = chatml(&[]).render_pair(&pair, &RenderOptions::default()).unwrap();
    assert_eq!(rendered.prompt.text(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(rendered.chosen.text().strip_prefix(rendered.prompt.text()), Some("Hello!<|im_end|>\n"));
    let source = "{{ messages | length }}{{ messages[0].content }}";
    let counted = ChatTemplate::new(source, &SpecialTokens::default()).unwrap();
    let error = counted.render_pair(&pair, &RenderOptions::default()).unwrap_err().to_string();
    assert!(error.contains("p1") && error.contains("chosen"), "{error}");
}

proptest! {
    #[test]
    fn derived_and_marked_spans_are_the_same_on_any_words(
        turns in prop::collection::vec((any::<String>(), "[ \n]{0,2}[a-z<|>{}%é]{1,9}[ \n]{0,2}"), 1..9)
    ) {
        let turns: Vec<_> =
            turns.iter().flat_map(|(q, a)| [(Role::User, &**q), (Role::Assistant, &**a)]).collect();
        let (row, options) = (chat(&turns), RenderOptions::default());
        let derived = chatml(&[]).render(&row, &options);
        if turns.iter().any(|(_, text)| text.contains(|c| ('\u{fdd0}'..='\u{fdd4}').contains(&c))) {
            prop_assert!(derived.is_err());
        } else {
            let marked = ChatTemplate::builtin("chatml").unwrap();
            let marked = ChatTemplate::new(marked.source(), &SpecialTokens::default()).unwrap();
            prop_assert_eq!(derived.unwrap(), marked.render(&row, &options).unwrap());
        }
    }

    #[test]
    fn no_source_makes_the_compiler_panic(source in "([{}%#'a-z |.()-]|generation|endgeneration|messages|raw){0,30}") {
        if let Ok(template) = ChatTemplate::new(&source, &SpecialTokens::default()) {
            let _ = template.render(&chat(&[(Role::User, "a"), (Role::Assistant, "b")]), &RenderOptions::default());
        }
    }
}
