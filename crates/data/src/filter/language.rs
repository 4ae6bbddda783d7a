//! The language of a text, with an honest "unknown".

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use whichlang::Lang;

use super::shown;
use crate::{Drop, Edit, Record, RecordStep};

/// Which identifier to ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// whichlang: 16 languages, over 100 MiB a second.
    #[default]
    Fast,
    /// lingua, behind the feature `accurate-language`: a hundred times slower, better on single words.
    Accurate,
}

/// What a text was found to be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanguageId {
    /// ISO 639-1 code; `None` where too little or nothing known was read.
    pub code: Option<&'static str>,
    /// The script of most of its letters.
    pub script: Script,
    /// How many letters were read.
    pub letters: usize,
    /// Whether there is enough to act on: the script alone decides, or there are letters and common words enough.
    pub is_sure: bool,
}

/// Scripts that tell languages apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// No letters.
    None,
    /// Latin.
    Latin,
    /// Cyrillic.
    Cyrillic,
    /// Arabic.
    Arabic,
    /// Devanagari.
    Devanagari,
    /// Chinese characters, without kana beside them.
    Han,
    /// Hiragana or katakana, usually beside Chinese characters.
    Kana,
    /// Korean.
    Hangul,
    /// Any other: no language of it is known here.
    Other,
}

fn script_of(c: char) -> Script {
    match u32::from(c) {
        0x41..=0x5a | 0x61..=0x7a | 0xaa | 0xba | 0xc0..=0x24f | 0x1e00..=0x1eff | 0xff21..=0xff5a => {
            Script::Latin
        }
        0x400..=0x52f => Script::Cyrillic,
        0x600..=0x6ff | 0x750..=0x77f | 0xfb50..=0xfdff | 0xfe70..=0xfefc => Script::Arabic,
        0x900..=0x97f => Script::Devanagari,
        0x3040..=0x30ff | 0x31f0..=0x31ff | 0xff66..=0xff9f => Script::Kana,
        0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x3ffff => Script::Han,
        0x1100..=0x11ff | 0x3130..=0x318f | 0xac00..=0xd7af => Script::Hangul,
        _ => Script::Other,
    }
}

/// Letters that a language of the same script has and the known one has not.
const FOREIGN: [(Script, &str); 3] = [
    // Ukrainian, Belarusian, Serbian, Macedonian, Kazakh
    (Script::Cyrillic, "іїєґўђјљњћџѓќѕәіңғүұқөһ"),
    // Persian and Urdu
    (Script::Arabic, "پچژگکیٹڈڑےںۓ"),
    // Marathi and Nepali have no letter of their own
    (Script::Devanagari, "ळ"),
];

/// The commonest words of the languages that share the Latin script.
const WORDS: [(&str, &str); 10] = [
    (
        "en",
        "the and you to of is it in for your i a can that we on my do with have be are this please thanks what how if or at from when not will was yes no hi hello would there our an me they has get does thank which who why any us as by but so all where",
    ),
    (
        "de",
        "der die das und ich ist nicht sie es ein eine wir ihr mit für auf den dem zu haben bitte wie was kann können von im hallo danke auch oder aber wenn bei nach noch sind war wird einen mein ihre ihren uns ja nein gibt",
    ),
    (
        "fr",
        "le la les de des et je vous est un une pour dans que qui pas ne nous votre avec sur bonjour merci ce cette il elle au aux du mais ou où comment quand peut sont avez mon ma être plus si oui non",
    ),
    (
        "es",
        "el la los las de y que en un una es por para con no se su lo del al mi usted está hola gracias como cómo cuando qué pero si sí más puede tiene tengo le me ya muy sus hay son",
    ),
    (
        "it",
        "il la di che e un una è per non in con si del della sono mi ho le lo gli ma come più grazie ciao buongiorno posso può anche questo da al nel i suo vostro quando",
    ),
    (
        "pt",
        "o a os as de que e do da em um uma para com não por mais se como eu você é no na mas obrigado olá meu minha seu sua pode está quando dos das ao",
    ),
    (
        "nl",
        "de het een en van ik je is niet dat in op te voor met zijn u er maar om hoe kan wat bij ook mijn uw naar dit als hallo bedankt wij ons heb wordt",
    ),
    (
        "sv",
        "och att det i en jag är som på för inte med av har till den om vi ni kan du men så ett min hej tack hur när var från de",
    ),
    (
        "tr",
        "ve bir bu için ne de da mi çok ben siz var yok ile nasıl olarak daha gibi merhaba teşekkürler ama sonra kadar",
    ),
    ("vi", "và là của không có được cho tôi bạn một các với này trong những để đã người khi như"),
];

static WORD_SETS: LazyLock<Vec<(&'static str, Vec<&'static str>)>> = LazyLock::new(|| {
    let sorted = |words: &'static str| {
        let mut words: Vec<&str> = words.split(' ').collect();
        words.sort_unstable();
        words
    };
    WORDS.iter().map(|&(code, words)| (code, sorted(words))).collect()
});

/// Fewer letters than this are judged by common words only.
const FEW_LETTERS: usize = 24;

/// The language of a text. Links, addresses and code words without letters do not count.
///
/// Unknown is a text of a script that none of the known languages uses, of fewer than three letters, and a longer
/// one in Latin letters without the common words of any known language.
///
/// ```
/// use ferrotune_data::filter::{Engine, identify};
/// assert_eq!(identify("Wann habt ihr am Samstag geöffnet?", Engine::Fast).code, Some("de"));
/// assert_eq!(identify("Yes we do", Engine::Fast).code, Some("en"));
/// assert_eq!(identify("BX-204 / 17", Engine::Fast).code, None);
/// ```
pub fn identify(text: &str, engine: Engine) -> LanguageId {
    let text = prose(text);
    let mut counts = [0usize; 9];
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        counts[script_of(c) as usize] += 1;
    }
    let letters = counts.iter().sum();
    let unknown = |script| LanguageId { code: None, script, letters, is_sure: false };
    if letters == 0 {
        return unknown(Script::None);
    }
    // Kana make Japanese of any number of Chinese characters.
    if counts[Script::Kana as usize] * 10 >= letters {
        return LanguageId { code: Some("ja"), script: Script::Kana, letters, is_sure: true };
    }
    let most = counts.iter().enumerate().max_by_key(|&(i, n)| (*n, usize::MAX - i)).map_or(0, |(i, _)| i);
    let script = [
        Script::None,
        Script::Latin,
        Script::Cyrillic,
        Script::Arabic,
        Script::Devanagari,
        Script::Han,
        Script::Kana,
        Script::Hangul,
        Script::Other,
    ][most];
    if letters < 3 && script == Script::Latin {
        return unknown(script);
    }
    if FOREIGN.iter().any(|(s, foreign)| *s == script && is_share(&text, foreign, letters)) {
        return unknown(script);
    }
    let code = match script {
        Script::Other | Script::None | Script::Kana => None,
        Script::Cyrillic => Some("ru"),
        Script::Arabic => Some("ar"),
        Script::Devanagari => Some("hi"),
        Script::Han => Some("zh"),
        Script::Hangul => Some("ko"),
        Script::Latin => {
            let (code, is_sure) = latin(&text, letters, engine);
            return LanguageId { code, script, letters, is_sure };
        }
    };
    LanguageId { code, script, letters, is_sure: code.is_some() }
}

/// Whether letters of another language are more than a slip or a name.
fn is_share(text: &str, foreign: &str, letters: usize) -> bool {
    let n = text.chars().flat_map(char::to_lowercase).filter(|&c| foreign.contains(c)).count();
    n * 50 > letters
}

/// The language and whether it is sure.
fn latin(text: &str, letters: usize, engine: Engine) -> (Option<&'static str>, bool) {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphabetic() && c != '\'' && c != '’')
        .filter(|w| !w.is_empty())
        .map(|w| w.to_lowercase().split(['\'', '’']).next().unwrap_or_default().to_owned())
        .collect();
    let hits = |set: &[&str]| words.iter().filter(|w| set.binary_search(&w.as_str()).is_ok()).count();
    // An initial (`Y. M. Gomez`) is a word of some language, but nothing to act on.
    let has_word = |code: &str| {
        let set = WORD_SETS.iter().find(|(c, _)| *c == code).map_or(&[][..], |(_, set)| set);
        words.iter().any(|w| w.chars().nth(1).is_some() && set.binary_search(&w.as_str()).is_ok())
    };
    let mut hits: Vec<(usize, &'static str)> =
        WORD_SETS.iter().map(|(code, set)| (hits(set), *code)).collect();
    hits.sort_by_key(|&(n, _)| std::cmp::Reverse(n));
    let (most, most_code) = hits[0];
    let is_tie = hits[1].0 == most;
    let guess = detect(text, engine);
    let guess_hits = hits.iter().find(|(_, code)| Some(*code) == guess).map_or(0, |&(n, _)| n);
    if letters < FEW_LETTERS {
        // Too few letters to trust their frequencies: common words decide, and the guess only breaks ties.
        return match most {
            0 if letters < 12 => (None, false),
            0 => (guess, false),
            n if guess_hits == n => (guess, guess.is_some_and(has_word)),
            _ => (Some(most_code), !is_tie && has_word(most_code)),
        };
    }
    if guess_hits > 0 {
        // Names and brands pull letters about; common words outvote them.
        let outvoted = most >= guess_hits + 3 && most >= 2 * guess_hits;
        let code = if outvoted { Some(most_code) } else { guess };
        return (code, code.is_some_and(has_word));
    }
    // Every language says its common words; a longer text without them is of one that is not known here.
    match most {
        0 if words.len() >= 12 => (None, false),
        0 => (guess, false),
        _ if is_tie => (guess, false),
        1 if words.len() >= 12 => (None, false),
        _ => (Some(most_code), most >= 2 && has_word(most_code)),
    }
}

fn detect(text: &str, engine: Engine) -> Option<&'static str> {
    #[cfg(feature = "accurate-language")]
    if engine == Engine::Accurate {
        return accurate(text);
    }
    let _ = engine;
    match whichlang::detect_language(text) {
        Lang::Eng => Some("en"),
        Lang::Deu => Some("de"),
        Lang::Fra => Some("fr"),
        Lang::Spa => Some("es"),
        Lang::Ita => Some("it"),
        Lang::Por => Some("pt"),
        Lang::Nld => Some("nl"),
        Lang::Swe => Some("sv"),
        Lang::Tur => Some("tr"),
        Lang::Vie => Some("vi"),
        // A language of another script, for a text in Latin letters.
        _ => None,
    }
}

#[cfg(feature = "accurate-language")]
fn accurate(text: &str) -> Option<&'static str> {
    use lingua::{Language, LanguageDetector, LanguageDetectorBuilder};
    static DETECTOR: LazyLock<LanguageDetector> = LazyLock::new(|| {
        LanguageDetectorBuilder::from_all_languages().with_preloaded_language_models().build()
    });
    match DETECTOR.detect_language_of(text)? {
        Language::English => Some("en"),
        Language::German => Some("de"),
        Language::French => Some("fr"),
        Language::Spanish => Some("es"),
        Language::Russian => Some("ru"),
        Language::Arabic => Some("ar"),
        Language::Chinese => Some("zh"),
        Language::Hindi => Some("hi"),
    }
}

/// The text without links, e-mail addresses, `<tags>`, `[PLACEHOLDERS]` and words that are mostly digits.
fn prose(text: &str) -> String {
    let is_prose = |w: &&str| {
        let letters = w.chars().filter(|c| c.is_alphabetic()).count();
        let is_address = w.contains("://") || w.starts_with("www.") || w.contains('@');
        let is_mark = w.starts_with('[')
            && w.trim_end_matches(|c: char| !c.is_alphanumeric() && c != ']').ends_with(']');
        !is_address
            && !is_mark
            && letters > 0
            && 2 * letters >= w.chars().filter(|c| c.is_alphanumeric()).count()
    };
    text.split_whitespace().filter(is_prose).collect::<Vec<_>>().join(" ")
}

/// Refuses rows that are not in one of the wanted languages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Language {
    /// ISO 639-1 codes to keep.
    pub languages: Vec<String>,
    /// Which identifier to ask.
    pub engine: Engine,
    /// Judge each text of the row alone, so that one foreign turn is enough; off, the row is judged as a whole.
    pub each: bool,
    /// Refuse rows whose language is unknown too.
    pub drop_unknown: bool,
    /// Texts with fewer letters are not judged alone.
    pub min_letters: usize,
}

impl Default for Language {
    fn default() -> Self {
        Language {
            languages: vec!["en".to_owned()],
            engine: Engine::Fast,
            each: false,
            drop_unknown: false,
            min_letters: 12,
        }
    }
}

impl Language {
    fn judge(&self, text: &str, field: &str) -> Result<(), Drop> {
        let found = identify(text, self.engine);
        let wanted = |code: &str| self.languages.iter().any(|l| l == code);
        match found.code {
            Some(code) if wanted(code) => Ok(()),
            Some(code) if found.is_sure && found.letters >= self.min_letters => {
                Err(Drop::new("wrong_language", format!("{field} is {code}: {}", shown(text))))
            }
            // The script alone can rule a text out: no wanted language is written in it.
            None if found.letters >= self.min_letters
                && !self.languages.iter().any(|l| uses(l, found.script)) =>
            {
                Err(Drop::new(
                    "wrong_language",
                    format!("{field} is in {:?} letters: {}", found.script, shown(text)),
                ))
            }
            None if self.drop_unknown => {
                Err(Drop::new("unknown_language", format!("{field}: {}", shown(text))))
            }
            // Too little to act on.
            Some(_) | None => Ok(()),
        }
    }
}

/// Whether a language is written in a script; one that is not known here may be written in any.
fn uses(code: &str, script: Script) -> bool {
    let latin = WORDS.iter().any(|&(c, _)| c == code);
    match code {
        _ if script == Script::None => true,
        "ru" | "uk" | "bg" | "sr" => script == Script::Cyrillic,
        "ar" | "fa" | "ur" => script == Script::Arabic,
        "hi" | "mr" | "ne" => script == Script::Devanagari,
        "zh" => script == Script::Han,
        "ja" => matches!(script, Script::Kana | Script::Han),
        "ko" => script == Script::Hangul,
        _ if latin => script == Script::Latin,
        _ => true,
    }
}

impl RecordStep for Language {
    fn name(&self) -> &'static str {
        "language"
    }

    fn apply(&self, record: &mut Record, _: &mut Vec<Edit>) -> Result<(), Drop> {
        use ferrotune_types::Role;
        let mut texts = record.spoken();
        texts.retain(|t| t.role != Some(Role::Tool) && t.role != Some(Role::System));
        if self.each {
            return texts.iter().try_for_each(|t| self.judge(t.text, &t.field));
        }
        let whole = texts.iter().map(|t| t.text).collect::<Vec<_>>().join("\n");
        self.judge(&whole, "the row")
    }
}
