use super::budget::WROTE;
use super::marks::GENERATION;
use super::operators;
use crate::DataError;

/// Whether a template marks what the assistant says, and where the marks stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    /// No `{% generation %}`.
    None,
    /// Blocks in the template's plain flow: what they write goes straight to the output.
    Plain,
    /// A block inside a macro, `{% set %}`, `{% filter %}` or `{% call %}`, whose text the template may change.
    Nested,
}

/// Text of the template itself that is captured without being counted.
const UNCOUNTED: usize = 64;
/// Spaces, or a raw block, that are captured in one piece.
const MAX_CAPTURED_RAW: usize = 512;

/// Turns `{% generation %}…{% endgeneration %}` into a `with` block, which has the same scope for variables, and
/// writes marks where it begins and ends. Line ends become `\n`, as Jinja reads them. Operators become checked
/// functions (`operators.rs`), and text that a macro, `{% set %}`, `{% filter %}` or `{% call %}` captures is counted.
///
/// # Errors
/// [`DataError::Template`] where a tag or comment is not closed, or a tag is refused.
pub(super) fn rewrite(source: &str) -> Result<(String, Blocks), DataError> {
    rewrite_to(source, &GENERATION.map(String::from))
}

/// As [`rewrite`], with blocks that write no marks.
pub(super) fn rewrite_untracked(source: &str) -> Result<String, DataError> {
    rewrite_to(source, &[String::new(), String::new()]).map(|(text, _)| text)
}

fn rewrite_to(source: &str, marks: &[String; 2]) -> Result<(String, Blocks), DataError> {
    let source = &*source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + 64);
    let mut blocks = Blocks::None;
    let mut depth_of_captures = 0_usize;
    let mut at = 0;
    while let Some(found) = source[at..].find('{').map(|i| at + i) {
        let line = || source[..found].matches('\n').count() + 1;
        let unclosed = |what: &str| DataError::Template(format!("{what} of line {} is not closed", line()));
        let refused = |reason: String| DataError::Template(format!("{reason} (line {})", line()));
        push_text(&source[at..found], depth_of_captures > 0, &mut out).map_err(refused)?;
        let rest = &source[found..];
        if rest.starts_with("{#") {
            let end = rest.find("#}").ok_or_else(|| unclosed("the comment"))? + 2;
            out.push_str(&rest[..end]);
            at = found + end;
        } else if rest.starts_with("{{") {
            let end = code_end(rest, "}}").ok_or_else(|| unclosed("the expression"))?;
            out.push_str(&checked(&rest[..end], false).map_err(refused)?);
            at = found + end;
        } else if rest.starts_with("{%") {
            let end = code_end(rest, "%}").ok_or_else(|| unclosed("the tag"))?;
            let tag = &rest[..end];
            let inner = tag[2..end - 2].trim_matches(['-', '+']).trim();
            let name = inner.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            at = found + end;
            match name {
                "generation" if inner == name => {
                    let nested = depth_of_captures > 0 || blocks == Blocks::Nested;
                    blocks = if nested { Blocks::Nested } else { Blocks::Plain };
                    // The outermost tags keep the signs that say what happens to the space around the block; the
                    // empty `if` is there because space after an expression is not treated as after a tag.
                    let (left, right) = tag.split_at(tag.find(name).unwrap_or_default());
                    let right = &right[name.len()..];
                    let mark = format!("with %}}{{{{- '{}' }}}}{{%- if false %}}{{%- endif", marks[0]);
                    out.extend([left, &mark, right]);
                }
                "endgeneration" if inner == name => {
                    let (left, right) = tag.split_at(tag.find(name).unwrap_or_default());
                    let right = &right[name.len()..];
                    let mark = format!("if false %}}{{%- endif %}}{{{{- '{}' }}}}{{%- endwith", marks[1]);
                    out.extend([left, &mark, right]);
                }
                "raw" => {
                    let raw_end = raw_end(&source[at..]).ok_or_else(|| unclosed("the raw block"))?;
                    if depth_of_captures > 0 && raw_end > MAX_CAPTURED_RAW {
                        let reason = format!(
                            "a raw block inside a macro or set block is longer than {MAX_CAPTURED_RAW}"
                        );
                        return Err(refused(reason));
                    }
                    out.push_str(tag);
                    out.push_str(&source[at..at + raw_end]);
                    at += raw_end;
                }
                _ => {
                    match name {
                        "macro" | "filter" | "call" => depth_of_captures += 1,
                        "set" if !inner.contains('=') => depth_of_captures += 1,
                        "endmacro" | "endfilter" | "endcall" | "endset" => {
                            depth_of_captures = depth_of_captures.saturating_sub(1);
                        }
                        _ => {}
                    }
                    out.push_str(&checked(tag, true).map_err(refused)?);
                }
            }
        } else {
            out.push('{');
            at = found + 1;
        }
    }
    out.push_str(&source[at..]);
    Ok((out, blocks))
}

/// A tag or expression with its operators replaced.
fn checked(tag: &str, is_statement: bool) -> Result<String, String> {
    let code = &tag[2..tag.len() - 2];
    let start = usize::from(code.starts_with(['-', '+']));
    let end = code.len() - usize::from(code.len() > start && code.ends_with(['-', '+']));
    let inner = operators::checked(&code[start..end], is_statement)?;
    Ok([&tag[..2 + start], &inner, &tag[2 + end..]].concat())
}

/// Writes text that stands between tags. Where it is captured, the rendering counts it: the call stands inside the
/// text, with something other than space on both sides, so that it changes nothing about the space beside tags.
fn push_text(text: &str, is_captured: bool, out: &mut String) -> Result<(), String> {
    if !is_captured || text.len() <= UNCOUNTED {
        out.push_str(text);
        return Ok(());
    }
    let inside = text.find(|c: char| !c.is_whitespace()).and_then(|first| {
        let after = first + text[first..].chars().next().map_or(0, char::len_utf8);
        (!text[after..].trim().is_empty()).then_some(after)
    });
    match inside {
        Some(at) => {
            let (before, after) = text.split_at(at);
            let count = format!("{{{{{WROTE}({})}}}}", text.len());
            out.extend([before, &count, after]);
        }
        None if text.len() > MAX_CAPTURED_RAW => {
            return Err(format!("more than {MAX_CAPTURED_RAW} spaces inside a macro or set block"));
        }
        None => out.push_str(text),
    }
    Ok(())
}

/// Where code that opens with two characters ends, strings skipped.
fn code_end(code: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut chars = code.char_indices().skip(2);
    while let Some((i, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(q), _) if q == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, _) if code[i..].starts_with(close) => return Some(i + close.len()),
            _ => {}
        }
    }
    None
}

/// Where the tag `{% endraw %}` begins.
fn raw_end(text: &str) -> Option<usize> {
    text.match_indices("{%")
        .map(|(i, _)| i)
        .find(|&i| text[i + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expect: &str, blocks: Blocks) {
        let expect = expect
            .replace("OPEN", "with %}{{- '\u{FDD0}' }}{%- if false %}{%- endif")
            .replace("CLOSE", "if false %}{%- endif %}{{- '\u{FDD1}' }}{%- endwith");
        assert_eq!(rewrite(source).unwrap(), (expect, blocks));
    }

    #[test]
    fn only_real_tags_are_rewritten() {
        check(
            "{#- {% generation %} -#}{%- generation -%}x{% endgeneration %}{{ '{% generation %}' }}",
            "{#- {% generation %} -#}{%- OPEN -%}x{% CLOSE %}{{ '{% generation %}' }}",
            Blocks::Plain,
        );
        check(
            "{% raw %}{% generation %}{%- endraw %}{ {",
            "{% raw %}{% generation %}{%- endraw %}{ {",
            Blocks::None,
        );
        check(
            "{% set x = '%}' %}{{ \"a\\\"}}\" }}",
            "{% set x = __kept(( '%}')) %}{{ \"a\\\"}}\" }}",
            Blocks::None,
        );
    }

    #[test]
    fn a_block_whose_text_is_captured_is_nested() {
        let (_, blocks) =
            rewrite("{% macro m() %}{% generation %}x{% endgeneration %}{% endmacro %}").unwrap();
        assert_eq!(blocks, Blocks::Nested);
        let (_, blocks) = rewrite("{% set x %}y{% endset %}{% generation %}x{% endgeneration %}").unwrap();
        assert_eq!(blocks, Blocks::Plain);
    }

    #[test]
    fn what_is_not_closed_is_an_error_that_names_its_line() {
        let error = rewrite("a\nb {% generation").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(rewrite("{# x").is_err());
        assert!(rewrite("{{ 'x }}").is_err());
    }
}
