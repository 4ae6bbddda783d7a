//! How much memory one rendering may take: what is written and what is made on the way counts against one sum.

use std::cell::Cell;
use std::sync::LazyLock;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Expression, State, Value, context};

use super::python;
use super::value::{Dict, List};

/// Bytes that one rendering may make, all its strings and lists together, the forgotten ones too.
pub(super) const BUDGET: usize = 512 << 20;
/// Bytes of one string, or of what a value prints as: some four million tokens.
pub(super) const MAX_STRING: usize = 16 << 20;
/// Bytes that one element of a list takes.
const ELEMENT: usize = 24;
/// Deeper than any tool definition; a bound for values that a template nests in a loop.
const MAX_DEPTH: usize = 200;
/// Wider than any prompt's table.
pub(super) const MAX_WIDTH: usize = 10_000;

/// What stands for `~`, `+` and `*`; see `operators.rs`.
pub(super) const CONCAT: &str = "__concat";
pub(super) const SUM: &str = "__sum";
pub(super) const TIMES: &str = "__times";
/// The method for `x[start:stop:step]`.
pub(super) const SLICE: &str = "__slice";
/// What a name is bound to.
pub(super) const KEPT: &str = "__kept";
/// What a loop goes through.
pub(super) const ITEMS: &str = "__items";
/// Counts text that stands in the template itself, where it is captured.
pub(super) const WROTE: &str = "__wrote";

thread_local! {
    /// What is left of the budget. One thread renders one text at a time.
    static LEFT: Cell<usize> = const { Cell::new(BUDGET) };
}

/// Begins a rendering.
pub(super) fn begin() {
    LEFT.set(BUDGET);
}

/// Counts bytes.
///
/// # Errors
/// Where the budget is spent.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    let left = LEFT.get().checked_sub(bytes);
    let left =
        left.ok_or_else(|| refused(format!("the template makes more than {} MiB of text", BUDGET >> 20)))?;
    LEFT.set(left);
    Ok(())
}

/// Counts a string that is about to be made.
///
/// # Errors
/// Where it is too long or the budget is spent.
pub(super) fn charge_string(bytes: Option<usize>) -> Result<(), Error> {
    match bytes {
        Some(bytes) if bytes <= MAX_STRING => charge(bytes),
        _ => Err(refused(format!("the template makes a string of more than {} MiB", MAX_STRING >> 20))),
    }
}

/// Counts a value that was made.
///
/// # Errors
/// Where it is too large or the budget is spent.
pub(super) fn charge_value(value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => charge_string(Some(value.as_str().unwrap_or_default().len())),
        ValueKind::Seq => charge(value.len().unwrap_or(0).saturating_mul(ELEMENT)),
        _ => Ok(()),
    }
}

/// Refuses values that print as too much: long, deep, or holding one another many times over.
///
/// # Errors
/// As said.
pub(super) fn check_printable(values: &[Value]) -> Result<usize, Error> {
    let mut left = MAX_STRING;
    if values.iter().all(|value| weigh(value, 0, &mut left)) {
        Ok(MAX_STRING - left)
    } else {
        Err(refused(format!(
            "the template prints a value of more than {} MiB or depth {MAX_DEPTH}",
            MAX_STRING >> 20
        )))
    }
}

/// Takes what a value weighs; `false` where there is not so much left.
fn weigh(value: &Value, depth: usize, left: &mut usize) -> bool {
    let take = |bytes: usize, left: &mut usize| {
        let rest = left.checked_sub(bytes);
        *left = rest.unwrap_or(0);
        rest.is_some()
    };
    match value.kind() {
        ValueKind::String => take(value.as_str().unwrap_or_default().len(), left),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            // What has no length may be walked only once, and then by whom it is meant for.
            let Some(len) = value.len() else { return true };
            let Ok(items) = value.try_iter() else { return true };
            let is_map = value.kind() == ValueKind::Map;
            depth < MAX_DEPTH
                && take(len.saturating_mul(2), left)
                && items.into_iter().all(|item| {
                    weigh(&item, depth + 1, left)
                        && (!is_map || value.get_item(&item).is_ok_and(|v| weigh(&v, depth + 1, left)))
                })
        }
        _ => true,
    }
}

/// Refuses lists and mappings that stand in one another deeper than this; every element looked at counts. What a row
/// holds is never so deep.
fn check_depth(value: &Value, limit: usize) -> Result<(), Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map) || is_of_a_row(value) {
        return Ok(());
    }
    if limit == 0 {
        return Err(refused("the template nests a value too deep".into()));
    }
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter()? {
        charge(ELEMENT)?;
        let item = if is_map { value.get_item(&item)? } else { item };
        check_depth(&item, limit - 1)?;
    }
    Ok(())
}

/// What a name may be bound to.
fn kept(value: Value) -> Result<Value, Error> {
    check_depth(&value, MAX_DEPTH).map(|()| value)
}

/// What a loop goes through: a string as the list of its characters, since minijinja does not know how many are left of a
/// string, and so neither `loop.last` nor `loop.revindex`.
fn items(value: Value) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return kept(value) };
    charge(text.chars().count().saturating_mul(ELEMENT))?;
    Ok(text.chars().map(Value::from).collect())
}

fn is_of_a_row(value: &Value) -> bool {
    value.downcast_object_ref::<List>().is_some() || value.downcast_object_ref::<Dict>().is_some()
}

fn refused(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// Adds the checked operators, and checks on the filters that can make much of little.
pub(super) fn add_to(env: &mut Environment<'static>) {
    env.add_function(CONCAT, |values: Rest<Value>| concat(&values));
    env.add_function(KEPT, kept);
    env.add_function(ITEMS, items);
    env.add_function(SUM, |values: Rest<Value>| {
        let mut values = values.0.into_iter();
        let first = values.next().unwrap_or_default();
        values.try_fold(first, |sum, value| add(&sum, &value))
    });
    env.add_function(TIMES, |a: Value, b: Value| times(&a, &b));
    // It prints every variable; transformers has none.
    env.add_global("debug", Value::UNDEFINED);
    env.add_function(WROTE, |bytes: usize| charge(bytes).map(|()| ""));
    for (name, filter) in builtin_filters() {
        env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            check_filter(name, &args)?;
            let made = filter.call(state, &args)?;
            charge_made(args.first(), &made)?;
            Ok::<Value, Error>(made)
        });
    }
}

/// minijinja's filters that make strings and lists.
fn builtin_filters() -> Vec<(&'static str, Value)> {
    use minijinja::filters as f;
    vec![
        ("safe", Value::from_function(f::safe)),
        ("lower", Value::from_function(f::lower)),
        ("upper", Value::from_function(f::upper)),
        ("title", Value::from_function(f::title)),
        ("capitalize", Value::from_function(f::capitalize)),
        ("join", Value::from_function(f::join)),
        ("split", Value::from_function(f::split)),
        ("lines", Value::from_function(f::lines)),
        ("list", Value::from_function(f::list)),
        ("string", Value::from_function(f::string)),
        ("batch", Value::from_function(f::batch)),
        ("slice", Value::from_function(f::slice)),
        ("sort", Value::from_function(f::sort)),
        ("unique", Value::from_function(f::unique)),
        ("reverse", Value::from_function(f::reverse)),
        ("indent", Value::from_function(f::indent)),
        ("format", Value::from_function(f::format)),
        ("dictsort", Value::from_function(f::dictsort)),
        ("items", Value::from_function(f::items)),
        ("groupby", Value::from_function(f::groupby)),
        ("sum", Value::from_function(f::sum)),
    ]
}

/// Counts what a filter or method made; the pieces of a string that was cut up, too.
///
/// # Errors
/// As [`charge_value`].
pub(super) fn charge_made(from: Option<&Value>, made: &Value) -> Result<(), Error> {
    charge_value(made)?;
    let is_cut_up = made.kind() == ValueKind::Seq;
    charge(from.and_then(Value::as_str).filter(|_| is_cut_up).map_or(0, str::len))
}

/// Refuses a filter's input of which it would make too much.
fn check_filter(name: &str, args: &[Value]) -> Result<(), Error> {
    let weight = check_printable(args)?;
    let text = args.first().and_then(Value::as_str).unwrap_or_default();
    match name {
        "join" => {
            let joiner = args.iter().skip(1).filter_map(Value::as_str).map(str::len).max().unwrap_or(0);
            let items = args.first().and_then(Value::len).unwrap_or(0);
            charge_string(joiner.checked_mul(items))
        }
        "indent" => {
            let width = args.iter().skip(1).flat_map(numbers).max().unwrap_or(0);
            check_width(width)?;
            charge_string((text.matches('\n').count() + 1).checked_mul(width))
        }
        "format" => check_format(text, '%', args, weight),
        "batch" | "slice" => args.iter().skip(1).flat_map(numbers).try_for_each(check_width),
        _ => Ok(()),
    }
}

/// The whole numbers among an argument, or among named ones.
fn numbers(value: &Value) -> Vec<usize> {
    if value.is_kwargs() {
        let names = value.try_iter().into_iter().flatten();
        return names.filter_map(|name| value.get_item(&name).ok()?.as_usize()).collect();
    }
    if value.kind() == ValueKind::Bool { Vec::new() } else { value.as_usize().into_iter().collect() }
}

fn check_width(width: usize) -> Result<(), Error> {
    if width > MAX_WIDTH {
        return Err(refused(format!("wider than {MAX_WIDTH}")));
    }
    Ok(())
}

/// Refuses `'%1000000d'`, `'{:>1000000}'`, a width given as an argument, and an argument that is printed often.
pub(super) fn check_format(text: &str, open: char, args: &[Value], weight: usize) -> Result<(), Error> {
    let mut n_fields = 0_usize;
    for field in text.split(open).skip(1) {
        n_fields += 1;
        let end = match open {
            '{' => field.find('}'),
            // After a name in brackets, `%(name)5d`, up to the letter of the conversion.
            _ => {
                let after = field.strip_prefix('(').and_then(|name| name.find(')')).map_or(0, |at| at + 2);
                field[after..].find(|c: char| c.is_alphabetic() || c.is_whitespace()).map(|at| at + after)
            }
        };
        let spec = &field[..end.unwrap_or(field.len())];
        for digits in spec.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()) {
            check_width(digits.parse().unwrap_or(usize::MAX))?;
        }
        if spec.contains(['*', '{']) {
            args.iter().flat_map(numbers).try_for_each(check_width)?;
        }
    }
    charge_string(n_fields.checked_mul(weight.max(1)))
}

/// Python's `str` of each, joined.
fn concat(values: &[Value]) -> Result<Value, Error> {
    let mut out = String::new();
    for value in values {
        match value.as_str() {
            Some(text) => {
                charge_string(out.len().checked_add(text.len()))?;
                out.push_str(text);
            }
            None => {
                check_printable(std::slice::from_ref(value))?;
                out.push_str(&printed(value));
                charge_string(Some(out.len()))?;
            }
        }
    }
    Ok(Value::from(out))
}

/// What a value is in a text.
pub(super) fn printed(value: &Value) -> String {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map => python::repr(value),
        ValueKind::Number if !value.is_integer() => python::repr(value),
        _ => value.to_string(),
    }
}

/// Python's `str` of a value, checked and counted.
///
/// # Errors
/// Where it is too long or the budget is spent.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    check_printable(std::slice::from_ref(value))?;
    let text = printed(value);
    charge_string(Some(text.len()))?;
    Ok(text)
}

/// minijinja's own operators, for what needs no check.
static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);
static ADD: LazyLock<Option<Expression<'static, 'static>>> =
    LazyLock::new(|| PLAIN.compile_expression("a + b").ok());
static CUT: LazyLock<Option<Expression<'static, 'static>>> =
    LazyLock::new(|| PLAIN.compile_expression("a[start:stop:step]").ok());
static MULTIPLY: LazyLock<Option<Expression<'static, 'static>>> =
    LazyLock::new(|| PLAIN.compile_expression("a * b").ok());

fn computed(operator: Option<&Expression<'_, '_>>, a: &Value, b: &Value) -> Result<Value, Error> {
    let operator = operator.ok_or_else(|| refused("the operator is not known".into()))?;
    operator.eval(context! { a, b })
}

/// `value[start:stop:step]`; of none and numbers it is undefined, as in Jinja2.
///
/// # Errors
/// As minijinja's own, and for an undefined value.
pub(super) fn slice(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (start, stop, step): (Option<Value>, Option<Value>, Option<Value>) = from_args(args)?;
    match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::None | ValueKind::Number | ValueKind::Bool => return Ok(Value::UNDEFINED),
        _ => {}
    }
    let cut = CUT.as_ref().ok_or_else(|| refused("slices are not known".into()))?;
    cut.eval(context! { a => value, start, stop, step })
}

fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        charge_string(a.len().checked_add(b.len()))?;
        return Ok(Value::from([a, b].concat()));
    }
    if a.is_integer()
        && b.is_integer()
        && let (Some(a), Some(b)) = (a.as_i64(), b.as_i64())
        && let Some(sum) = a.checked_add(b)
    {
        return Ok(Value::from(sum));
    }
    if let (Some(a), Some(b)) = (a.len(), b.len()) {
        charge(a.saturating_add(b).saturating_mul(ELEMENT))?;
    }
    computed(ADD.as_ref(), a, b)
}

fn times(a: &Value, b: &Value) -> Result<Value, Error> {
    for (what, times) in [(a, b), (b, a)] {
        let Some(times) = times.as_usize() else { continue };
        match (what.as_str(), what.len()) {
            (Some(text), _) => charge_string(text.len().checked_mul(times))?,
            (None, Some(len)) => charge(len.saturating_mul(times).saturating_mul(ELEMENT))?,
            (None, None) => {}
        }
    }
    computed(MULTIPLY.as_ref(), a, b)
}
