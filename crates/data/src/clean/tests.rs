use ferrotune_types::Document;
use proptest::prelude::*;
use serde_json::Map;

use super::*;
use crate::{Item, Origin};

fn check(step: &dyn TextStep, text: &str, expect: &str) {
    let fixed = step.fix(text);
    assert_eq!(fixed, expect, "{} of {text:?}", step.name());
    assert_eq!(step.fix(&fixed), expect, "{} twice, of {text:?}", step.name());
}

fn stays(step: &dyn TextStep, text: &str) {
    check(step, text, text);
    assert!(matches!(step.fix(text), Cow::Borrowed(_)));
}

#[test]
fn html_becomes_text() {
    let check = |text: &str, expect: &str| check(&Html, text, expect);
    check("<p>Hi <b>Ann</b>,</p>\n\n<p>thanks.</p>", "Hi Ann,\n\nthanks.");
    check(
        "Dear Ann,\n\nyour <b>refund</b> is on its way.\nBye",
        "Dear Ann,\n\nyour refund is on its way.\nBye",
    );
    check("one<br/>two<br>three", "one\ntwo\nthree");
    check("<ul><li>red</li><li>blue</li></ul>", "- red\n- blue");
    check("<ol><li>red</li><li>blue</li></ol>", "1. red\n2. blue");
    check(
        "<table><tr><th>Size</th><th>Chest</th></tr><tr><td>M</td><td>40 in</td></tr></table>",
        "Size | Chest\nM | 40 in",
    );
    check("See <a href=\"https://x.example/a\">the page</a>.", "See the page (https://x.example/a).");
    check("<div style=\"color:red\">Hi</div><script>alert(1 < 2)</script><style>p {}</style>", "Hi");
    check("<p>a < b && c > d, I <3 you</p>", "a < b && c > d, I <3 you");
    check("Tom &amp; Jerry&#39;s caf&eacute; &pound;5", "Tom & Jerry's café £5");
    check("<html><body><font size=\"2\">Hi</font></body></html>", "Hi");
    check("<!-- x --><p>Hi</p>", "Hi");
    check("<P CLASS=a>Hi<BR CLEAR=all>there</P>", "Hi\nthere");
    check("<p>Use `<b>` here</p>", "Use `<b>` here");
    check("<p>x</p>\n```\n<b>y</b>\n```\n", "x\n```\n<b>y</b>\n```\n");
}

#[test]
fn what_is_not_html_stays() {
    for text in [
        "I <3 you",
        "a < b and c > d",
        "if (a<b && b>c) return;",
        "let v: Vec<String> = HashMap<K, V>::new();",
        "Write to <name@example.org> please",
        "Use the <b> tag for bold",
        "Type `<p>Hi</p>` to make a paragraph",
        "```html\n<p>Hi</p>\n```",
        "AT&T, R&D; x &unknown; y",
        "<Enter> your <name> here",
        "-> <- <-> <=>",
    ] {
        stays(&Html, text);
    }
}

#[test]
fn unicode_is_brought_into_one_form() {
    let step = Unicode::default();
    check(&step, "cafe\u{301}", "café");
    check(&step, "a\r\nb\rc\u{2028}d", "a\nb\nc\nd");
    check(&step, "\u{feff}a\u{0}b\u{7}c\u{200b}d\u{ad}e\u{fffe}", "abcde");
    check(&step, "of\u{fb01}ce \u{1b}[31mred\u{1b}[0m", "office red");
    stays(&step, "“curly” – 家族 👨\u{200d}👩\u{200d}👧 naïve ½ \u{645}\u{200c}\u{646} ｆｕｌｌ");
    let strict =
        Unicode(UnicodeConfig { straight_quotes: true, plain_width: true, ..UnicodeConfig::default() });
    check(&strict, "“curly” ‘one’ ｆｕｌｌ", "\"curly\" 'one' full");
}

#[test]
fn whitespace_is_tidied() {
    check(&Whitespace, "  a  b\u{a0}c \t d  \n\n\n\ne \n", "a b c d\n\ne");
    check(&Whitespace, "\n\n   \n", "");
    check(&Whitespace, "a\n  \u{a0} \nb", "a\n\nb");
    stays(&Whitespace, "a\n\n    indented  code".replace("  code", " code").as_str());
    stays(&Whitespace, "```\nx   y\n\n\n\nz\n```");
    stays(&Whitespace, "| a  | b |\n|----|---|");
    check(&Whitespace, "   Dear  Ann,\nhow are you?", "Dear Ann,\nhow are you?");
    check(&Whitespace, "one \ntwo   \nthree", "one\ntwo\nthree");
    check(&Whitespace, "one  \n\ntwo  ", "one\n\ntwo");
}

#[test]
fn code_tables_and_line_breaks_keep_their_blanks() {
    check(&Whitespace, "\n\n    x = 1\n    return x + 1\n", "    x = 1\n    return x + 1");
    check(&Whitespace, "x\u{a0}= 1  # one", "x = 1  # one");
    for text in [
        "print(\"a  b\")",
        "echo \"a  b\"",
        "  if x\n    return  y",
        "name\tage\nBob\t42\t\tyes",
        "Roses are red,  \nviolets are blue",
        "- one\n    - two",
        "Run `ls  -l` twice",
    ] {
        stays(&Whitespace, text);
    }
}

#[test]
fn markdown_leftovers_go() {
    let step = Markdown(MarkdownMode::Leftovers);
    check(&step, "\\*Note\\* 5\\_000", "*Note* 5_000");
    check(&step, "Look ![](http://x/y.png) here [](http://x)", "Look  here ");
    check(&step, "**Note: closed on Sunday", "Note: closed on Sunday");
    check(&step, "# \nTitle\n- \n- one", "Title\n- one");
    check(&step, "---\nText\n---", "Text");
    for text in [
        "**bold** and *it*",
        "# Title\n\n- one\n- two",
        "C:\\_old\\x",
        "2 ** 3",
        "a_b_c __init__",
        "```\n\\*\n```",
    ] {
        stays(&step, text);
    }
}

#[test]
fn markdown_can_go_whole() {
    let step = Markdown(MarkdownMode::Plain);
    check(
        &step,
        "# Sizes\n\nA **bold** and *light* [page](https://x.example/y) ~~no~~",
        "Sizes\n\nA bold and light page (https://x.example/y) no",
    );
    check(&step, "> quoted\n\n***\n\n- one\n- *two*", "quoted\n\n\n- one\n- two");
    stays(&step, "2 * 3 * 4 = 24, snake_case_name, #4711, a - b");
    stays(&step, "```\n# **x**\n```");
}

#[test]
fn signatures_and_quotations_are_cut() {
    let check = |text: &str, expect: &str| check(&Email, text, expect);
    check("Where is it?\n\nBest regards,\nJohn Smith", "Where is it?");
    check("Where is it?\n\nThanks,\n\nAnn\nHead of Sales | Acme\n+1 555 0100", "Where is it?");
    check("Where is it?\n-- \nJohn\nAcme Ltd.\nThis is anything at all, really.", "Where is it?");
    check("Where is it?\n\nSent from my iPhone", "Where is it?");
    check("Where?\n\nOn Mon, Jan 3, 2025 at 9:14 AM X <x@y.z> wrote:\n> Hi\nno mark", "Where?");
    check("Where?\n\nOn Mon, Jan 3, 2025 at 9:14 AM\nX <x@y.z> wrote:\n> Hi", "Where?");
    check("Where?\n-----Original Message-----\nFrom: a", "Where?");
    check("Where?\nFrom: Desk\nSent: Monday\nTo: Ann\nSubject: Re: x\n\nHello", "Where?");
    check("Where?\n> We got your mail.\n> Bye", "Where?");
    check("Wo?\n\nAm Mo., 3. Jan. 2025 um 9:14 schrieb X <x@y.z>:\n> Hallo", "Wo?");
    check("Wo?\n\nMit freundlichen Grüßen\nAnna Schmidt", "Wo?");
    check("Where?\nThis e-mail and any attachments are confidential and intended for X.", "Where?");
    check("Where?\n______________\nDesign Studio | Creative Director", "Where?");
}

#[test]
fn notices_are_cut_with_all_that_is_like_them() {
    let question = "Where is it?";
    for tail in [
        "This e-mail and any files transmitted with it are confidential and intended solely for the use of the\nindividual or \
         entity to whom they are addressed. If you have received this email in error please notify\nthe system manager.\n\n\
         Please note that any views or opinions presented in this email are solely those of the author.\nFinally, the \
         recipient should check this email and any attachments for viruses.",
        "If you are not the intended recipient, please notify the sender and delete this message. Thank you.",
        "CONFIDENTIALITY NOTICE: This message may contain privileged information.\nAny copying is prohibited.\n\nAcme Ltd. \
         Registered in England No. 12345.",
        "This message is confidential.\n\nDiese E-Mail enthält vertrauliche Informationen. Wenn Sie nicht der richtige Adressat \
         sind, vernichten Sie diese Mail.\n\nCe message est confidentiel. Merci d'avertir l'expéditeur.",
        "If you received this confidential e-mail in error, delete it.\n\n> Hi\n> there",
        "If you have received this in error, please tell the sender.\n\nOn Mon, Jan 3, 2025 at 9:14 AM X <x@y.z> wrote:\nHi",
        "Please consider the environment before printing.\nSent from my iPhone",
        "Kind regards,\nAnn Smith\nHead of Sales\n\nThe e-mail, including its attachments, is confidential.\nCall us any time \
         and we will be glad to help you.",
        "_______________\nThis message is privileged and confidential.\nWe are here for you from nine to five.",
        "-----\nIf you have received this message in error, please delete it.\nWe are here for you from nine to five.",
    ] {
        check(&Email, &format!("{question}\n\n{tail}"), question);
    }
}

#[test]
fn headers_of_mails_are_cut_and_journeys_are_not() {
    let check = |header: &str, is_mail: bool| {
        let text = format!("Here it is.\n\n{header}\n\nPlease be there ten minutes before.");
        check(&Email, &text, if is_mail { "Here it is." } else { &text });
    };
    check("From: Ann <ann@x.example>\nTo: Desk\nDate: Monday", true);
    check("Von: Desk\nGesendet: Montag\nAn: Ann\nBetreff: AW: Paket", true);
    check("De : Desk\nEnvoyé : lundi\nÀ : Ann\nObjet : colis", true);
    check("De: Desk\nEnviado: lunes\nPara: Ann\nAsunto: pedido", true);
    check("From: Berlin Hauptbahnhof\nTo: Munich Central\nDate: 5 May, 10:05", false);
    check("From: Berlin\nTo: Munich\nDate: 5 May @10:05", false);
    check("From: the door\nSubject: none", false);
}

#[test]
fn what_a_person_wrote_is_kept() {
    for text in [
        "Hello Ann,\nthanks for telling us.\n\nIf you have received this item in error, please send it back with the enclosed \
         label.\nWe will refund you within 5 days",
        "I am sorry about that.\nIf you have received a charge in error, we refund it within 5 working days.\nPlease send us the \
         number of the order.",
        "Do it online.\nIf you have received the letter in error, write 'return to sender' on it.",
        "Here is the relevant part.\nThe message is encrypted and may contain confidential information, so the app asks for \
         your PIN.\nTo turn this off open Settings and choose Privacy.",
        "Here it is.\nThe message may contain confidential information, so the app asks for your PIN.",
        "You are in.\nThis message is confidential, so keep it.\nYour password is on the next page of the letter.",
        "You are in.\nIf you have received this message in error, please ignore it\nThe link works for two days.",
        "Thanks!\n\nIf you have received this e-mail in error, please tell us.\nWe then take your address off the list.",
        "Thanks! Where is it?",
        "Best regards",
        "> all of it\n> is quoted",
        "Thanks,\nthis worked and I would like to know how long the refund takes to arrive here.",
        "> You said 30 days.\nThat is wrong, it was 14.",
        "Regards are nice.\nBut where is my order?",
        "I am writing from: home\nSubject: none",
        "Pros\n---\nCheap",
        "Best\nprice in town is what I was told, so please match it.",
    ] {
        stays(&Email, text);
    }
}

#[test]
fn a_step_tells_its_edits_and_leaves_tools_alone() {
    let item = serde_json::json!({"id": "r", "messages": [
        {"role": "user", "content": "a  b"}, {"role": "tool", "content": "x  y"}]});
    let mut record = Record { item: serde_json::from_value(item).unwrap(), origin: Origin::default() };
    let mut edits = Vec::new();
    RecordStep::apply(&Whitespace, &mut record, &mut edits).unwrap();
    assert_eq!(record.texts().iter().map(|t| t.1).collect::<Vec<_>>(), ["a b", "x  y"]);
    assert_eq!(
        (edits.len(), &*edits[0].field, &*edits[0].before, edits[0].start),
        (1, "messages[0].content", "  ", 1)
    );
}

fn documents(texts: &[&str]) -> Vec<Record> {
    let document = |(i, text): (usize, &&str)| Record {
        item: Item::Document(Document { id: i.to_string(), text: (*text).to_owned(), meta: Map::new() }),
        origin: Origin::default(),
    };
    texts.iter().enumerate().map(document).collect()
}

#[test]
fn boilerplate_lines_go_from_all_rows() {
    let footer = "Copyright of the shop, all rights reserved";
    let texts: Vec<String> = (0..12).map(|i| format!("Page number {i} tells a story\n{footer}")).collect();
    let mut all: Vec<&str> = texts.iter().map(String::as_str).collect();
    all.push(footer);
    let mut records = documents(&all);
    let mut edits = Vec::new();
    let removed = boilerplate::remove(&mut records, &boilerplate::BoilerplateConfig::default(), &mut edits);
    assert_eq!(removed.len(), 1);
    assert_eq!((removed[0].line.as_str(), removed[0].rows), (footer, 12));
    assert_eq!(records[3].texts()[0].1, "Page number 3 tells a story");
    assert_eq!(records[12].texts()[0].1, footer, "a text of one line is not touched");
    assert_eq!(edits.len(), 12);
}

proptest! {
    #[test]
    fn fixes_end_and_are_idempotent(text in "[a-zA-Z \t\n.,\"=<>/&;#*_\\[\\]()\\\\!é“”\u{a0}\u{200b}`~|-]{0,60}") {
        let steps: [&dyn TextStep; 6] =
            [&Unicode::default(), &Whitespace, &Email, &Mojibake, &Html, &Markdown(MarkdownMode::Leftovers)];
        for step in steps.iter().take(4) {
            let once = step.fix(&text).into_owned();
            prop_assert_eq!(step.fix(&once), once.as_str(), "{}", step.name());
        }
        let tidy = Whitespace.fix(&text);
        prop_assert!(tidy.split_whitespace().eq(text.split_whitespace()), "words stay");
        // Undoing one layer of escapes may lay another one open (`&amp;amp;`), so these only must not panic.
        for step in &steps[4..] {
            let _ = step.fix(&text);
        }
    }

    #[test]
    fn fixes_never_panic(text in "\\PC{0,80}", html in "(<[a-z/!]{0,4}[ =\"'a-z]{0,6}>|[a-z&; \n]{0,5}){0,12}") {
        let steps: [&dyn TextStep; 7] = [
            &Unicode::default(), &Whitespace, &Email, &Mojibake, &Html,
            &Markdown(MarkdownMode::Leftovers), &Markdown(MarkdownMode::Plain),
        ];
        for step in steps {
            let _ = step.fix(&text);
            let _ = step.fix(&html);
        }
    }
}
