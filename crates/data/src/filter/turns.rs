//! Rows whose turns no training can use.

use ferrotune_types::{Message, Role};
use serde::{Deserialize, Serialize};

use crate::{Drop, Edit, Item, Record, RecordStep};

/// Refuses chats without an answer or with turns out of order, and pairs whose sides are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turns {}

impl RecordStep for Turns {
    fn name(&self) -> &'static str {
        "turns"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        match &record.item {
            Item::Chat(chat) => {
                if !chat.messages.iter().any(|m| m.role == Role::Assistant) {
                    return Err(Drop::new("no_answer", "the assistant never speaks"));
                }
                in_order(&chat.messages)
            }
            Item::Pair(pair) => {
                let says =
                    |turns: &[Message]| turns.iter().map(|m| m.content.trim().to_owned()).collect::<Vec<_>>();
                let calls =
                    |turns: &[Message]| turns.iter().flat_map(|m| m.tool_calls.clone()).collect::<Vec<_>>();
                if says(&pair.chosen) == says(&pair.rejected) && calls(&pair.chosen) == calls(&pair.rejected)
                {
                    return Err(Drop::new("identical_pair", "chosen and rejected say the same"));
                }
                in_order(&pair.prompt)
            }
            Item::Document(_) => Ok(()),
        }
    }
}

/// Two turns of the person, or two plain ones of the assistant, must not follow each other, and a system turn must
/// come first.
fn in_order(turns: &[Message]) -> Result<(), Drop> {
    for (i, pair) in turns.windows(2).enumerate() {
        let bad = |what: &str| Err(Drop::new("bad_turns", format!("turn {}: {what}", i + 1)));
        match (pair[0].role, pair[1].role) {
            (Role::User, Role::User) => return bad("the user speaks twice in a row"),
            (Role::Assistant, Role::Assistant) if pair[0].tool_calls.is_empty() => {
                return bad("the assistant speaks twice in a row");
            }
            (before, Role::System) if before != Role::System => return bad("a system turn comes late"),
            _ => {}
        }
    }
    Ok(())
}
