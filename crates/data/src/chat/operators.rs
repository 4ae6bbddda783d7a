//! Puts checked functions in the place of a template's operators that make new strings and lists.
//!
//! minijinja bounds instructions, not memory, and lets nobody watch `~`, `+` and `*`: sixty instructions double a
//! string to 2^60 bytes. So `a ~ b ~ c` becomes `__concat(a, b, c)` before the template is compiled, `a + b` becomes
//! `__sum(a, b)`, `a * b` `__times(a, b)`, and `x[a:b]` `x.__slice(a, b)`; `budget.rs` has the functions. What a name is
//! bound to passes through `__kept`, which refuses lists in lists in lists…, since they are given back by recursion, and
//! what a loop goes through by `__items`, which also makes a list of a string. On the way each expression is measured,
//! since minijinja parses and compiles it by recursion.

use super::budget::{CONCAT, ITEMS, KEPT, SLICE, SUM, TIMES};

/// Words and signs that may stand inside one another in one tag, commas counted anew. The parser and the compiler
/// recurse at most once for each; the longest tag of a known template has 49.
const MAX_NESTED: usize = 1000;
/// Brackets in brackets. A list in lists is given back by recursion, so this also bounds how much deeper a value gets
/// in one tag.
const MAX_BRACKETS: usize = 40;

/// A tag's code, without delimiters and space signs, with its operators replaced.
///
/// # Errors
/// Why it is refused: nested too deep, or an operator without an operand.
pub(super) fn checked(code: &str, is_statement: bool) -> Result<String, String> {
    let mut rewriter = Rewriter {
        code,
        tokens: lex(code),
        at: 0,
        written: 0,
        name: is_statement.then_some(""),
        bound: Vec::new(),
    };
    let (mut out, _) = rewriter.level(0, 0)?;
    for (start, end) in std::mem::take(&mut rewriter.bound).into_iter().rev() {
        let end = end.unwrap_or(out.len());
        if out[start..end].trim().is_empty() {
            return Err("there is no value".into());
        }
        // The inner brackets make `a, b` one value.
        out.insert_str(end, "))");
        let function = if rewriter.name == Some("for") { ITEMS } else { KEPT };
        out.insert_str(start, &format!(" {function}(("));
    }
    // What follows a bracket too many is left to the compiler, which refuses it.
    out.push_str(&code[rewriter.written..]);
    Ok(out)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Literal,
    Open,
    Close,
    Sign,
}

struct Token<'t> {
    text: &'t str,
    end: usize,
    kind: Kind,
}

fn lex(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = code[at..].chars().next() {
        let rest = &code[at..];
        let (len, kind) = match c {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '\'' => (string_len(rest, c), Kind::Literal),
            '0'..='9' => (number_len(rest), Kind::Literal),
            c if is_in_word(c) => (rest.find(|c| !is_in_word(c)).unwrap_or(rest.len()), Kind::Word),
            '(' | '[' | '{' => (1, Kind::Open),
            ')' | ']' | '}' => (1, Kind::Close),
            _ if ["**", "//", "==", "!=", "<=", ">="].iter().any(|sign| rest.starts_with(sign)) => {
                (2, Kind::Sign)
            }
            c => (c.len_utf8(), Kind::Sign),
        };
        at += len;
        tokens.push(Token { text: &rest[..len], end: at, kind });
    }
    tokens
}

fn is_in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn string_len(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            c if c == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

/// `1`, `1_000`, `0xff`, `1.5`, `1e-5`; the dot of `a.0.b` belongs to no number.
fn number_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let word_end = |at: usize| text[at..].find(|c| !is_in_word(c)).map_or(text.len(), |n| at + n);
    let mut end = word_end(0);
    if bytes.get(end) == Some(&b'.') && is_digit(end + 1) {
        end = word_end(end + 1);
    }
    let has_exponent = matches!(bytes[end - 1], b'e' | b'E') && !text.starts_with("0x");
    if has_exponent && matches!(bytes.get(end), Some(b'+' | b'-')) && is_digit(end + 1) {
        end = word_end(end + 1);
    }
    end
}

struct Rewriter<'t> {
    code: &'t str,
    tokens: Vec<Token<'t>>,
    /// The next token.
    at: usize,
    /// How much of the code is dealt with.
    written: usize,
    /// In a statement its name, empty before it is read.
    name: Option<&'t str>,
    /// Where in what is written the values begin and end that `set`, `with` and `for` bind names to.
    bound: Vec<(usize, Option<usize>)>,
}

impl<'t> Rewriter<'t> {
    /// What stands between two brackets, or the whole code, and where in it the colons are.
    fn level(&mut self, brackets: usize, before: usize) -> Result<(String, Vec<usize>), String> {
        if brackets > MAX_BRACKETS {
            return Err(format!("more than {MAX_BRACKETS} brackets stand in one another"));
        }
        let (mut out, mut colons) = (String::new(), Vec::new());
        let mut chain = Chain::default();
        let mut n_nested = before;
        // `is_test`: the name of a test is next; `has_argument`: what it is compared with may be.
        let (mut previous, mut is_test, mut has_argument) = ("", false, false);
        while let Some(&Token { text, end, kind }) =
            self.tokens.get(self.at).filter(|t| t.kind != Kind::Close)
        {
            n_nested = if text == "," { before } else { n_nested + 1 };
            if n_nested > MAX_NESTED {
                return Err(format!("one tag nests more than {MAX_NESTED} words and signs"));
            }
            let is_name = previous == "." && kind == Kind::Word;
            let is_keyword = kind == Kind::Word && !is_name && !is_test && self.is_keyword(text, brackets);
            let spaced = self.take(end);
            match text {
                _ if kind == Kind::Open => self.bracket(spaced, &mut chain.operand, brackets, n_nested)?,
                "+" | "-" | "~" | "*" | "/" | "//" | "%"
                    if kind == Kind::Sign
                        && chain.has_operand()
                        && !(has_argument && matches!(text, "+" | "-")) =>
                {
                    self.may_compute()?;
                    chain.operator(text, spaced);
                }
                "~" | "*" if kind == Kind::Sign => return Err(format!("{text} has no left operand")),
                _ if is_keyword
                    || matches!(text, "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=") =>
                {
                    chain.finish(&mut out)?;
                    self.note_bound(text, brackets, out.len(), spaced);
                    out.push_str(spaced);
                    if text == ":" {
                        colons.push(out.len() - 1);
                    }
                }
                _ => chain.operand.push_str(spaced),
            }
            // The name of a test, and `not` before it, are no keywords: `x is not in y`.
            has_argument = is_test && text != "not";
            is_test = kind == Kind::Word && !is_name && (text == "is" || is_test && text == "not");
            previous = text;
        }
        chain.finish(&mut out)?;
        Ok((out, colons))
    }

    /// A bracket with what stands in it. `x[a:b]` becomes `x.__slice(a, b)`.
    fn bracket(
        &mut self,
        open: &str,
        operand: &mut String,
        brackets: usize,
        before: usize,
    ) -> Result<(), String> {
        let (inner, colons) = self.level(brackets + 1, before)?;
        let close = self.tokens.get(self.at).map(|close| close.end).map_or("", |end| self.take(end));
        if open.ends_with('[') && close.ends_with(']') && !operand.trim().is_empty() && !colons.is_empty() {
            let mut ends = vec![0];
            ends.extend(colons.iter().map(|colon| colon + 1));
            let part = |(i, &start): (usize, &usize)| {
                inner[start..colons.get(i).copied().unwrap_or(inner.len())].trim()
            };
            let parts: Vec<&str> =
                ends.iter().enumerate().map(part).map(|p| if p.is_empty() { "none" } else { p }).collect();
            operand.extend([".", SLICE, "(", &parts.join(","), ")"]);
        } else {
            operand.extend([open, &inner, close]);
        }
        Ok(())
    }

    /// The next token with the space before it.
    fn take(&mut self, end: usize) -> &'t str {
        let text = &self.code[self.written..end];
        self.written = end;
        self.at += 1;
        text
    }

    fn is_keyword(&mut self, word: &'t str, brackets: usize) -> bool {
        if self.name == Some("") {
            self.name = Some(word);
            return true;
        }
        matches!(word, "and" | "or" | "not" | "in" | "if" | "else")
            || word == "recursive" && self.name == Some("for") && brackets == 0
    }

    /// Notes where the values of `set x = value`, `with x = value, y = value` and `for x in value if …` begin and end.
    fn note_bound(&mut self, text: &str, brackets: usize, written: usize, spaced: &str) {
        if brackets > 0 {
            return;
        }
        match (self.name, text) {
            (Some("set" | "for"), "=" | "in") if !self.bound.is_empty() => {}
            (Some("set" | "with"), "=") | (Some("for"), "in") => {
                self.bound.push((written + spaced.len(), None));
            }
            (Some("with"), ",") | (Some("for"), "if" | "recursive") => {
                if let Some((_, end @ None)) = self.bound.last_mut() {
                    *end = Some(written);
                }
            }
            _ => {}
        }
    }

    /// Tags that name another template have a grammar of their own; a chat template has no other template.
    fn may_compute(&self) -> Result<(), String> {
        match self.name {
            Some(name @ ("include" | "import" | "from" | "extends")) => {
                Err(format!("{name} takes the name of a template, not a computed one"))
            }
            _ => Ok(()),
        }
    }
}

/// Operands and the operators between them, up to a sign or word that binds less than `+`.
#[derive(Default)]
struct Chain {
    /// Each operand with the operator after it: the sign, and as it stands in the code with its space.
    before: Vec<(String, String, String)>,
    /// The operand that is being read.
    operand: String,
}

impl Chain {
    fn has_operand(&self) -> bool {
        // After `**` and `|`, a sign belongs to the operand that follows.
        let operand = self.operand.trim_end();
        !operand.is_empty() && !operand.ends_with(['*', '|', '-', '+', '.'])
    }

    fn operator(&mut self, sign: &str, spaced: &str) {
        self.before.push((std::mem::take(&mut self.operand), sign.to_owned(), spaced.to_owned()));
    }

    /// Writes the operands with checked functions for operators: `*` binds most, then `~`, then `+`.
    fn finish(&mut self, out: &mut String) -> Result<(), String> {
        let mut before = std::mem::take(&mut self.before);
        let last = std::mem::take(&mut self.operand);
        if before.is_empty() {
            out.push_str(&last);
            return Ok(());
        }
        if last.trim().is_empty() {
            return Err("an operator has no right operand".into());
        }
        before.push((last, String::new(), String::new()));
        let products = joined(before, &["*", "/", "//", "%"], |left, sign, spaced, right| match sign {
            "*" => call(TIMES, &[left, right]),
            _ => format!("{left}{spaced}{right}"),
        });
        let mut terms = called(products, "~", CONCAT, false);
        terms = called(terms, "+", SUM, true);
        out.extend(terms.into_iter().flat_map(|(operand, _, spaced)| [operand, spaced]));
        Ok(())
    }
}

type Links = Vec<(String, String, String)>;

/// Joins neighbours with one of these signs between them, from the left.
fn joined(links: Links, signs: &[&str], join: impl Fn(&str, &str, &str, &str) -> String) -> Links {
    let mut out: Links = Vec::new();
    for (operand, sign, spaced) in links {
        match out.last_mut() {
            Some(left) if signs.contains(&&*left.1) => {
                *left = (join(&left.0, &left.1, &left.2, &operand), sign, spaced);
            }
            _ => out.push((operand, sign, spaced)),
        }
    }
    out
}

/// Makes each run of operands with `sign` between them one call; `first`: only the run that begins the chain. What
/// follows `a - b` is a number, and a number plus a string is an error.
fn called(links: Links, sign: &str, function: &str, first: bool) -> Links {
    let mut out: Links = Vec::new();
    let mut run: Vec<String> = Vec::new();
    for (operand, after, spaced) in links {
        run.push(operand);
        if after == sign && (!first || out.is_empty()) {
            continue;
        }
        let text = match &run[..] {
            [only] => only.clone(),
            several => call(function, several),
        };
        out.push((text, after, spaced));
        run.clear();
    }
    out
}

/// A call; the space before the first operand stays before it, where it may part two words.
fn call<T: AsRef<str>>(function: &str, operands: &[T]) -> String {
    let operands: Vec<&str> = operands.iter().map(AsRef::as_ref).collect();
    let joined = operands.join(",");
    let space = joined.len() - joined.trim_start().len();
    format!("{}{function}({})", &joined[..space], &joined[space..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str, expect: &str) {
        assert_eq!(checked(code, false).unwrap(), expect);
    }

    fn check_tag(code: &str, expect: &str) {
        assert_eq!(checked(code, true).unwrap(), expect);
    }

    #[test]
    fn operators_become_calls_by_their_precedence() {
        check("a ~ b ~ c", "__concat(a, b, c)");
        check("a+b~c*d+e", "__sum(a,__concat(b,__times(c,d)),e)");
        check("a-b+c", "a-b+c");
        check("a+b-c+d", "__sum(a,b)-c+d");
        check("a*b/c*d%e", "__times(__times(a,b)/c,d)%e");
        check("2**3*x|f(a~b)", "__times(2**3,x|f(__concat(a,b)))");
        check("-a~-b", "__concat(-a,-b)");
        check("a*-b", "__times(a,-b)");
    }

    #[test]
    fn what_binds_less_ends_a_chain() {
        check("a~b if c+d else e~f", "__concat(a,b) if __sum(c,d) else __concat(e,f)");
        check("not a~b == c~d", "not __concat(a,b) == __concat(c,d)");
        check(
            "f(a=b~c, d=[e+f, {g: h+i}], j=k[1])",
            "f(a=__concat(b,c), d=[__sum(e,f), {g: __sum(h,i)}], j=k[1])",
        );
        check("x[1:n+1].y[::-1][a:b][c]", "x.__slice(1,__sum(n,1)).y.__slice(none,none,-1).__slice(a,b)[c]");
        // A bracket that is not closed is left for the compiler to refuse.
        check("x[1:2", "x[1:2");
        check("x is not in y~z", "__concat(x is not in y,z)");
        check("x is eq -1 ~ y", "__concat(x is eq -1, y)");
        check("x is string ~ y", "__concat(x is string, y)");
        check("x.if~y.0.not", "__concat(x.if,y.0.not)");
        check_tag("set x = a~b", "set x = __kept(( __concat(a,b)))");
        check_tag("for x in a+b recursive", "for x in __items(( __sum(a,b))) recursive");
        check_tag("with a = b~c, d = [e, f]", "with a = __kept(( __concat(b,c))), d = __kept(( [e, f]))");
        check_tag("set a, b = c, d", "set a, b = __kept(( c, d))");
        check_tag("for a in b if c in d", "for a in __items(( b)) if c in d");
        check_tag("macro f(a, b='x'~'y')", "macro f(a, b=__concat('x','y'))");
    }

    #[test]
    fn numbers_and_strings_hold_no_operators() {
        check("1e-5", "1e-5");
        check("1e+5 + 1.5", "__sum(1e+5, 1.5)");
        check("'a ~ \\' ~ b' ~ \"+\"", "__concat('a ~ \\' ~ b', \"+\")");
    }

    #[test]
    fn what_nests_too_deep_or_lacks_an_operand_is_refused() {
        let refused = |code: &str, expect: &str| {
            let reason = checked(code, false).unwrap_err();
            assert!(reason.contains(expect), "{reason}");
        };
        refused(&("not ".repeat(1001) + "1"), "nests more than 1000");
        refused(&("a".to_owned() + &".b".repeat(501)), "nests more than 1000");
        refused(&("(".repeat(151) + "1"), "40 brackets");
        assert!(checked("set x =", true).unwrap_err().contains("no value"));
        refused("a ~", "no right operand");
        refused("~ a", "no left operand");
        assert!(checked("include a ~ b", true).unwrap_err().contains("include"));
        // A long list of short things nests nothing.
        checked(&"1, ".repeat(5000), false).unwrap();
    }
}
