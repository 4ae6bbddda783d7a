use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

/// What a word can mean for some detector, as bits.
pub(crate) type Roles = u32;

/// A first name of the gazetteer.
pub(crate) const FIRST: Roles = 1;
/// A surname of the gazetteer.
pub(crate) const LAST: Roles = 1 << 1;
/// A name that is also an ordinary word or a place.
pub(crate) const AMBIGUOUS: Roles = 1 << 2;
/// An ordinary English word.
pub(crate) const COMMON: Roles = 1 << 3;
/// A month's name; [`month`] tells which.
pub(crate) const MONTH: Roles = 1 << 4;
/// A weekday's name.
pub(crate) const WEEKDAY: Roles = 1 << 5;
/// Mr, Mrs, Dr, Herr, …
pub(crate) const TITLE: Roles = 1 << 6;
/// van, de, bin, …: joins the parts of a surname.
pub(crate) const PARTICLE: Roles = 1 << 7;
/// Hi, dear, …: a name follows.
pub(crate) const GREETING: Roles = 1 << 8;
/// Regards, sincerely, …: a name stands on the next line.
pub(crate) const CLOSING: Roles = 1 << 9;
/// name, named, called: a name follows.
pub(crate) const SAYS_NAME: Roles = 1 << 10;
/// Street, road, …: stands after its name.
pub(crate) const STREET: Roles = 1 << 11;
/// Rue, via, calle, …: stands before its name.
pub(crate) const STREET_BEFORE: Roles = 1 << 12;
/// Apt, suite, …
pub(crate) const UNIT: Roles = 1 << 13;
/// A country, or the last word of one's name.
pub(crate) const COUNTRY: Roles = 1 << 14;
/// A two-letter code of a US state or Canadian province (compare in upper case).
pub(crate) const STATE: Roles = 1 << 15;
/// Ltd, Inc, university, …: what stands before is no person.
pub(crate) const ORG: Roles = 1 << 16;
/// Announces a telephone number.
pub(crate) const SAYS_PHONE: Roles = 1 << 17;
/// Office, fax, mobile: labels the telephone number before it.
pub(crate) const PHONE_AFTER: Roles = 1 << 18;
/// Announces a birthday.
pub(crate) const SAYS_BIRTH: Roles = 1 << 19;
/// Announces a postal address.
pub(crate) const SAYS_ADDRESS: Roles = 1 << 20;
/// Announces a card number.
pub(crate) const SAYS_CARD: Roles = 1 << 21;
/// Announces an identity, tax or licence number.
pub(crate) const SAYS_ID: Roles = 1 << 22;
/// Announces a password or key.
pub(crate) const SAYS_SECRET: Roles = 1 << 23;
/// Announces an order, invoice, part, page or other number that is nobody's.
pub(crate) const SAYS_ORDER: Roles = 1 << 24;
/// Announces a software version.
pub(crate) const SAYS_VERSION: Roles = 1 << 25;
/// Says, by, with, …: a name often follows.
pub(crate) const SPEAKS: Roles = 1 << 26;
/// Announces a network address.
pub(crate) const SAYS_NETWORK: Roles = 1 << 27;
/// Announces a postcode.
pub(crate) const SAYS_ZIP: Roles = 1 << 28;
/// MD, PhD, Jr: part of the name before it.
pub(crate) const SUFFIX: Roles = 1 << 29;
/// Opens the name of a place of several words; [`places`] tells how it goes on.
pub(crate) const PLACE: Roles = 1 << 30;

const WORDS: &[(Roles, &str)] = &[
    // Names of persons too, but seldom.
    (
        AMBIGUOUS,
        "africa asia america bali madrid valencia porto birmingham boston atlanta lagos jerusalem asuncion kingston basel \
         bergen florida verona siena",
    ),
    (MONTH | COMMON, "january february march april may june july august september october november december"),
    (MONTH, "jan feb mar apr jun jul aug sep sept oct nov dec"),
    (MONTH, "januar februar märz mai juni juli oktober dezember"),
    (MONTH, "janvier février mars avril juin juillet août septembre octobre novembre décembre"),
    (MONTH, "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"),
    (MONTH, "gennaio febbraio aprile maggio giugno luglio settembre ottobre dicembre"),
    (MONTH, "janeiro fevereiro março maio junho julho setembro outubro dezembro"),
    (MONTH, "januari februari maart mei augustus"),
    (WEEKDAY | COMMON, "monday tuesday wednesday thursday friday saturday sunday"),
    (
        TITLE,
        "mr mrs ms miss mx dr prof professor sir madam herr frau señor señora sr sra signor signora monsieur madame",
    ),
    (SUFFIX, "md phd dds jr sr dvm esq mba cpa ii iii iv"),
    (PARTICLE, "van von der den de del della di da dos das du la le el al bin ibn ten ter zu af av ben y e"),
    (
        GREETING,
        "hi hello dear hey hallo liebe lieber bonjour hola ciao olá cher chère estimado estimada caro cara",
    ),
    (
        CLOSING,
        "regards sincerely thanks cheers yours faithfully wishes respectfully truly best grüße grüßen gruß cordialement saludos saluti",
    ),
    (SAYS_NAME, "name names named surname nickname maiden nombre nom nome vorname nachname"),
    (
        SPEAKS,
        "said says say asked asks told shouted replied wrote writes by starring featuring signed attn commenter \
              contact ask sincerely user customer client patient employee agent tell meet meeting met with from to for and cc",
    ),
    (
        STREET,
        "street st avenue ave road rd boulevard blvd lane ln drive dr court ct place pl square sq terrace ter \
              parkway pkwy highway hwy circle cir crescent way close row mews alley plaza trail route expressway freeway \
              turnpike loop crossing gardens grove hill park walk path pike ridge run view vista heights green \
              út utca útja tér rakpart krt straße strasse str platz weg allee gasse damm ufer ring \
              gata gatan väg vägen vej gade alle veg vei gate katu tie kuja polku laan straat plein gracht kade dreef \
              ulica ul ulice třída náměstí",
    ),
    (
        STREET_BEFORE,
        "rue via viale piazza corso calle avenida av avda paseo plaza carrera camino camiño ctra carretera rua r \
              travessa largo praça praca estrada rúa colonia vila vía ronda glorieta quai chemin allée impasse cours \
              place boulevard avenue ul aleja aleje vicolo borgo contrada rotonda incrocio \
                     salita traversa lungomare strada ladeira viela jardim quadra esplanada passarela viaduto alameda beco cité strada calea bulevardul str λεωφ",
    ),
    (UNIT, "apt apartment suite ste unit flat apto piso bte appt box"),
    (
        COUNTRY,
        "usa uk england scotland wales ireland germany france spain italy portugal netherlands holland belgium \
               luxembourg austria switzerland poland czechia slovakia hungary slovenia croatia serbia bosnia montenegro \
               macedonia albania greece cyprus malta turkey bulgaria romania moldova ukraine belarus russia estonia latvia \
               lithuania finland sweden norway denmark iceland greenland canada mexico brazil argentina chile peru colombia \
               ecuador bolivia uruguay paraguay venezuela guyana suriname panama cuba jamaica haiti bahamas barbados \
               guatemala honduras nicaragua salvador belize china japan korea india pakistan bangladesh nepal bhutan \
               maldives thailand vietnam laos cambodia malaysia singapore indonesia philippines australia zealand fiji \
               samoa tonga vanuatu kiribati tuvalu nauru palau mongolia kazakhstan uzbekistan tajikistan turkmenistan \
               kyrgyzstan afghanistan iran iraq syria lebanon israel jordan egypt libya tunisia algeria morocco sudan \
               ethiopia eritrea djibouti somalia kenya uganda tanzania rwanda burundi malawi zambia zimbabwe botswana \
               namibia mozambique madagascar mauritius seychelles comoros angola congo gabon cameroon nigeria niger chad \
               mali senegal gambia guinea liberia togo benin ghana kuwait qatar bahrain oman yemen emirates armenia \
               azerbaijan georgia dominica grenada andorra monaco liechtenstein brunei myanmar states kingdom republic \
               islands rico rica lanka leone faso deutschland österreich schweiz españa italia brasil",
    ),
    (
        STATE,
        "al ak az ar ca co ct de fl ga hi id il in ia ks ky la me md ma mi mn ms mo mt ne nv nh nj nm ny nc nd oh ok \
             or pa ri sc sd tn tx ut vt va wa wv wi wy dc pr gu vi as mp ab bc mb nb nl ns nt nu on pe qc sk yt ap aa ae \
             nsw vic qld wlg tas act",
    ),
    (
        ORG,
        "ltd inc corp llc llp gmbh ag plc co company corporation group university college school institute hospital \
           church bank foundation association society committee council ministry department agency museum library \
           airport station stadium orchestra band records press times championship cup award prize trophy war battle \
           treaty river lake mountain mount island bay bridge tower palace castle county city town village district \
           province region theatre theater festival tournament league club team army navy squadron regiment brigade \
           act law theorem algorithm method distribution test",
    ),
    (
        SAYS_PHONE,
        "phone phones telephone tel call calls called calling mobile cell cellphone fax dial ring reach reached \
                  hotline whatsapp sms text texts message messages landline answering voicemail viber telefon telefono teléfono móvil \
                  movil mobil mobilnummer handy tél téléphone portable cellulare tlf telefone celular mob ph desk \
                  telefoon gsm registered messages msisdn helpline rufnummer nummer anrufen appelez llame contact",
    ),
    (PHONE_AFTER, "office fax mobile cell home desk work tel phone direct landline büro"),
    (
        SAYS_BIRTH,
        "born birth birthday birthdate dob geboren geburtsdatum geb geburtstag née né naissance nacido nacida \
                  nacimiento nato nata nascita nascido nascida nascimento geboortedatum",
    ),
    (
        SAYS_ADDRESS,
        "address addresses addr located lives lived live reside resides residing adresse dirección indirizzo \
                    endereço anschrift wohnhaft deliver delivered shipped sent send moved mailing return taxi meet",
    ),
    (SAYS_ZIP, "zip zipcode postcode postal plz postleitzahl cap cep"),
    (
        SAYS_CARD,
        "card cards credit debit visa mastercard amex maestro discover jcb cc ccn pan cvv cvc declined kreditkarte tarjeta \
              carte carta cartão",
    ),
    (
        SAYS_ID,
        "ssn ni social security passport license licence licencia driver's drivers nino insurance nhs tax taxpayer tin \
               itin steuer steuernummer steueridentifikationsnummer steuerid idnr sozialversicherungsnummer nir insee dni nie nif \
               cpf pesel bsn sin aadhaar aadhar uidai pan fiscale codice personnummer personalausweis reisepass passeport \
               pasaporte passaporto führerschein permis henkilötunnus hetu fødselsnummer fodselsnummer ahv avs svnr kimlik cnp rrn \
               sécurité sociale identity identification national ausweis",
    ),
    (
        SAYS_SECRET,
        "password passwd pwd pw passphrase passcode secret token apikey key credential credentials pass passwort \
                   contraseña senha kennwort wachtwoord passe bearer auth authorization",
    ),
    (
        SAYS_ORDER,
        "order orders invoice ticket tracking ref reference sku isbn issn case model part serial item product batch \
                  lot upc ean asin doi pmid arxiv article bug issue pr commit build rev revision chapter section page pages \
                  pp vol volume figure fig table line lines id ids po rma parcel shipment booking transaction \
                  bestellung bestellnummer rechnung commande pedido ordine factura fattura facture",
    ),
    (SAYS_VERSION, "version ver v release firmware build rev revision kernel driver chapter section rfc"),
    (
        SAYS_NETWORK,
        "ip address addresses ipv4 ipv6 host server mac dns gateway subnet client ping from login proxy router",
    ),
];

static LEXICON: LazyLock<HashMap<&'static str, Roles, BuildHasherDefault<WordHasher>>> =
    LazyLock::new(|| {
        let mut lexicon: HashMap<_, Roles, _> =
            HashMap::with_capacity_and_hasher(40_000, BuildHasherDefault::default());
        for line in include_str!("gazetteer/names.txt").lines() {
            let Some((name, flags)) = line.split_once(' ') else { continue };
            let roles = flags.bytes().fold(0, |roles, flag| {
                roles
                    | match flag {
                        b'f' => FIRST,
                        b's' => LAST,
                        _ => AMBIGUOUS,
                    }
            });
            *lexicon.entry(name).or_default() |= roles;
        }
        for word in include_str!("gazetteer/common.txt").lines() {
            *lexicon.entry(word).or_default() |= COMMON;
        }
        for &(roles, words) in WORDS {
            for word in words.split_whitespace() {
                *lexicon.entry(word).or_default() |= roles;
            }
        }
        for &first in PLACES.keys() {
            *lexicon.entry(first).or_default() |= PLACE;
        }
        lexicon
    });

/// How the names of places of several words go on, by their first word. The list has countries, regions and large
/// cities whose names look like a person's.
static PLACES: LazyLock<BTreeMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let mut places: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (first, rest) in include_str!("gazetteer/places.txt").lines().filter_map(|line| line.split_once(' '))
    {
        places.entry(first).or_default().push(rest);
    }
    places
});

/// The words, in lower case and parted by blanks, that make a place's name of `first`: "york" and "york city" of "New".
pub(crate) fn places(first: &str) -> &'static [&'static str] {
    PLACES.get(first.to_lowercase().as_str()).map_or(&[], Vec::as_slice)
}

/// The longest word that is looked up, in bytes.
const LONGEST: usize = 32;

/// What a word means, whatever its letter case; 0 for most words.
pub(crate) fn roles(word: &str) -> Roles {
    if word.len() > LONGEST {
        return 0;
    }
    if word.is_ascii() {
        let mut lower = [0; LONGEST];
        let lower = &mut lower[..word.len()];
        lower.copy_from_slice(word.as_bytes());
        lower.make_ascii_lowercase();
        std::str::from_utf8(lower).ok().and_then(|w| LEXICON.get(w)).copied().unwrap_or(0)
    } else {
        LEXICON.get(word.to_lowercase().as_str()).copied().unwrap_or(0)
    }
}

/// What a row of letters without spaces announces.
pub(crate) fn roles_within(row: &str) -> Roles {
    const KNOWN: [(Roles, &[&str]); 5] = [
        (
            SAYS_PHONE,
            &[
                "電話",
                "电话",
                "手机",
                "手機",
                "携帯",
                "联系",
                "聯絡",
                "連絡",
                "전화",
                "휴대폰",
                "연락",
                "โทร",
            ],
        ),
        (SAYS_BIRTH, &["生年月日", "出生", "生日", "생년월일", "생일", "วันเกิด"]),
        (SAYS_ADDRESS, &["地址", "住址", "住所", "주소", "ที่อยู่"]),
        (SAYS_ID, &["身份证", "身分證", "护照", "護照", "パスポート", "マイナンバー", "주민등록", "여권"]),
        (SAYS_ORDER, &["订单", "訂單", "単号", "单号", "注文", "주문", "คำสั่งซื้อ"]),
    ];
    let says = |words: &&[&str]| words.iter().any(|word| row.contains(word));
    KNOWN.iter().filter(|(_, words)| says(words)).fold(0, |roles, (role, _)| roles | role)
}

/// 1 to 12 for a month's name in one of the seven languages.
pub(crate) fn month(word: &str) -> Option<u32> {
    // The first three letters tell the month in all seven, but for those listed one by one.
    let word = word.to_lowercase();
    let by_hand = match word.as_str() {
        "mai" | "mayo" | "maggio" | "maio" | "mei" => Some(5),
        "juin" | "giugno" => Some(6),
        "juillet" | "luglio" => Some(7),
        "août" => Some(8),
        "enero" | "gennaio" => Some(1),
        "fév" | "février" | "fevereiro" => Some(2),
        "märz" | "março" | "maart" => Some(3),
        "avril" | "abril" => Some(4),
        "dicembre" | "diciembre" | "dezembro" | "dezember" | "décembre" => Some(12),
        "ottobre" | "outubro" | "oktober" => Some(10),
        "settembre" | "setembro" => Some(9),
        _ => None,
    };
    by_hand.or_else(|| {
        let starts =
            ["jan", "feb", "mar", "apr", "may", "jun", "jul", "au", "ag", "sep", "oct", "nov", "dec"];
        let at = starts.iter().position(|s| word.starts_with(s))?;
        Some(if at < 8 { at as u32 + 1 } else { at as u32 })
    })
}

/// A hash for short words: multiply and rotate, eight bytes at a time. Only fixed word lists go in, so it
/// need not withstand chosen keys.
#[derive(Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_known_in_any_case() {
        for (word, role) in [("SARAH", FIRST), ("März", MONTH), ("Telefon", SAYS_PHONE), ("Street", STREET)]
        {
            assert_ne!(roles(word) & role, 0, "{word}");
        }
        assert_eq!(roles("zzyzx"), 0);
        assert_ne!(roles("Will") & AMBIGUOUS, 0);
        assert_eq!(roles("Sarah") & AMBIGUOUS, 0);
    }

    #[test]
    fn every_listed_month_has_its_number() {
        let expect = [
            (1, "january jan januar janvier enero gennaio janeiro januari"),
            (2, "february feb februar février febrero febbraio fevereiro februari"),
            (3, "march mar märz mars marzo março maart"),
            (4, "april apr avril abril aprile"),
            (5, "may mai mayo maggio maio mei"),
            (6, "june jun juni juin junio giugno junho"),
            (7, "july jul juli juillet julio luglio julho"),
            (8, "august aug août agosto augustus"),
            (9, "september sep sept septembre septiembre settembre setembro"),
            (10, "october oct oktober octobre octubre ottobre outubro"),
            (11, "november nov novembre noviembre"),
            (12, "december dec dezember décembre diciembre dicembre dezembro"),
        ];
        for (number, words) in expect {
            for word in words.split(' ') {
                assert_eq!(month(word), Some(number), "{word}");
                assert_ne!(roles(word) & MONTH, 0, "{word}");
            }
        }
    }
}
