//! Renders a conversation with every built-in template, what the assistant says in reverse:
//! `cargo run -p ferrotune-data --example chat`.

use std::error::Error;

use ferrotune_data::chat::{BUILTIN, ChatTemplate, RenderOptions};
use ferrotune_types::{Conversation, Message, Role};

#[expect(clippy::print_stdout, reason = "a program")]
fn main() -> Result<(), Box<dyn Error>> {
    let turn = Message::new;
    let messages = vec![
        turn(Role::User, "Where is my order?"),
        turn(Role::Assistant, "It was shipped."),
        turn(Role::User, "Thanks"),
        turn(Role::Assistant, "You're welcome."),
    ];
    let chat = Conversation { id: "1".into(), messages, tools: vec![], meta: serde_json::Map::new() };
    for name in BUILTIN {
        let rendered = ChatTemplate::builtin(name)?.render(&chat, &RenderOptions::default())?;
        let (mut shown, mut at) = (String::new(), 0);
        for span in rendered.assistant() {
            let said = &rendered.text()[span.clone()];
            shown.extend([&rendered.text()[at..span.start], "\x1b[7m", said, "\x1b[0m"]);
            at = span.end;
        }
        println!("── {name}\n{shown}{}", &rendered.text()[at..]);
    }
    Ok(())
}
