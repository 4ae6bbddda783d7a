//! Words of abuse, weighed by how strong they are and whether they are aimed at somebody.

use std::collections::HashMap;

/// What the lexicon found in a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Sum of the weights of the different words found; in long texts, for every hundred words.
    pub score: f64,
    /// The words, in order.
    pub words: Vec<String>,
}

/// Words and phrases with their weights.
#[derive(Debug, Clone)]
pub struct Lexicon {
    words: HashMap<String, Entry>,
    /// Phrases by their first word.
    phrases: HashMap<String, Vec<(Vec<String>, f64)>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    weight: f64,
    /// An ordinary word that only hurts when it is aimed at somebody.
    is_insult: bool,
}

/// Texts up to this many words are judged whole; longer ones by their density.
const SHORT_TEXT: usize = 100;
const ENDINGS: [&str; 9] = ["", "s", "es", "ed", "er", "ers", "in", "ing", "y"];

impl Lexicon {
    /// The built-in English list.
    pub fn english() -> Self {
        let mut lexicon = Lexicon { words: HashMap::new(), phrases: HashMap::new() };
        let (mut section, mut default) = ("", 1.0);
        for line in include_str!("lexicon_en.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((name, weight)) = line.strip_prefix('[').and_then(|l| l.split_once(']')) {
                (section, default) = (name, weight.trim().parse().unwrap_or(1.0));
            } else if section == "phrases" {
                for phrase in line.split('|') {
                    let (phrase, weight) = weighed(phrase, default);
                    lexicon.add_phrase(phrase, weight);
                }
            } else {
                for word in line.split_whitespace() {
                    let (word, weight) = weighed(word, default);
                    let entry = Entry { weight, is_insult: section == "insults" };
                    match word.strip_suffix('*') {
                        Some(stem) => {
                            for ending in ENDINGS {
                                lexicon.words.insert(format!("{stem}{ending}"), entry);
                            }
                        }
                        None => {
                            lexicon.words.insert(word.to_owned(), entry);
                        }
                    }
                }
            }
        }
        lexicon
    }

    /// Adds words and phrases that weigh 1.
    pub fn add<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) {
        for line in lines {
            let words = tokens(line);
            match &words[..] {
                [] => {}
                [word] => {
                    self.words.insert(word.clone(), Entry { weight: 1.0, is_insult: false });
                }
                _ => self.add_phrase(line, 1.0),
            }
        }
    }

    fn add_phrase(&mut self, phrase: &str, weight: f64) {
        let words = tokens(phrase);
        if let Some(first) = words.first() {
            self.phrases.entry(first.clone()).or_default().push((words, weight));
        }
    }

    /// Weighs a text. Linear in its length.
    pub fn score(&self, text: &str) -> Found {
        let words = tokens(text);
        let mut found: Vec<(String, f64)> = Vec::new();
        let mut note = |what: String, weight: f64| match found.iter_mut().find(|(w, _)| *w == what) {
            Some((_, w)) => *w = w.max(weight),
            None => found.push((what, weight)),
        };
        for (i, word) in words.iter().enumerate() {
            if let Some(entry) = self.words.get(word).filter(|e| e.weight > 0.0) {
                let aimed = entry.is_insult && is_aimed(&words, i);
                let weight = match entry.weight {
                    w if aimed && w >= 0.6 => w.max(1.0),
                    w if aimed => w * 1.5,
                    w => w,
                };
                note(word.clone(), weight);
            }
            for (phrase, weight) in self.phrases.get(word).into_iter().flatten() {
                if words[i..].starts_with(phrase) {
                    note(phrase.join(" "), *weight);
                }
            }
        }
        let sum: f64 = found.iter().map(|(_, weight)| weight).sum();
        let parts = (words.len() as f64 / SHORT_TEXT as f64).max(1.0);
        Found { score: sum / parts, words: found.into_iter().map(|(word, _)| word).collect() }
    }
}

fn weighed(entry: &str, default: f64) -> (&str, f64) {
    match entry.split_once('=') {
        Some((word, weight)) => (word.trim(), weight.trim().parse().unwrap_or(default)),
        None => (entry.trim(), default),
    }
}

/// Whether the word at `i` is said of somebody: "you …", "your … staff", "run by …", "what a bunch of …".
fn is_aimed(words: &[String], i: usize) -> bool {
    const AT: [&str; 22] = [
        "you", "your", "youre", "u", "ur", "yourself", "they", "theyre", "he", "hes", "she", "shes", "staff",
        "people", "manager", "company", "everyone", "these", "those", "bunch", "by", "such",
    ];
    // "I feel stupid" is about nobody else.
    let before = &words[i.saturating_sub(5)..i];
    let is_self =
        before.iter().rev().take(3).any(|w| matches!(w.as_str(), "i" | "im" | "my" | "me" | "feel" | "felt"));
    let after = &words[(i + 1).min(words.len())..(i + 3).min(words.len())];
    !is_self && before.iter().chain(after).any(|w| AT.contains(&w.as_str()))
}

/// Lower-case words; `f*ck`, `sh!t`, `a$$` and `fuuuck` as what they mean, apostrophes dropped.
fn tokens(text: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '\'' | '’' | '*' | '@' | '$' | '!');
    text.split(|c| !is_word(c))
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '*' && c != '@' && c != '$'))
        .filter(|word| !word.is_empty())
        .map(plain)
        .filter(|word| !word.is_empty())
        .collect()
}

/// Swear words as people mask them.
const MASKED: [(&str, &str); 8] = [
    ("f*ck", "fuck"),
    ("f**k", "fuck"),
    ("f***", "fuck"),
    ("sh*t", "shit"),
    ("s**t", "shit"),
    ("s***", "shit"),
    ("b*tch", "bitch"),
    ("a**hole", "asshole"),
];

fn plain(word: &str) -> String {
    let has_letter = word.chars().any(char::is_alphabetic);
    let mut out = String::with_capacity(word.len());
    for c in word.chars().flat_map(char::to_lowercase) {
        let c = match c {
            '\'' | '’' => continue,
            '@' if has_letter => 'a',
            '$' if has_letter => 's',
            '0' if has_letter => 'o',
            '1' | '!' if has_letter => 'i',
            '3' if has_letter => 'e',
            c => c,
        };
        // A key held down: three of a kind are one.
        let n = out.chars().rev().take_while(|&last| last == c).count();
        if n < 2 || !c.is_alphabetic() {
            out.push(c);
        } else {
            out.pop();
        }
    }
    if !out.contains('*') {
        return out;
    }
    for (masked, word) in MASKED {
        if out.starts_with(masked) {
            return out.replacen(masked, word, 1);
        }
    }
    out.replace('*', "")
}
