"""Writes names.txt and common.txt, the word lists that person detection reads.

usage: make.py TOKENIZER_JSON OUT_DIR      (needs the PyPI packages names==0.3.0 and Faker==40.54.0)

names.txt   one lower-case name a line, a space, and its flags:
            f first name, s surname, ? also an ordinary word or a place, so a capital letter alone proves nothing.
            From the 1990 US Census lists (public domain, in `names`) and Faker's lists of other countries (MIT).
common.txt  ordinary lower-case English words, commonest first, from the merge order of a byte-level BPE
            (SmolLM2's tokenizer.json, Apache-2.0): a word is ordinary where its lower-case token was merged
            before its capitalised one.
"""
import json, re, sys, importlib, pathlib, unicodedata
import names

tokenizer, out = sys.argv[1], pathlib.Path(sys.argv[2])
vocab = json.load(open(tokenizer, encoding="utf-8"))["model"]["vocab"]
BIG = 1 << 30
rank = lambda w: vocab.get("Ġ" + w, BIG)

words = [t[1:] for t, _ in sorted(vocab.items(), key=lambda kv: kv[1]) if re.fullmatch(r"Ġ[a-z]{2,}", t)]
common = [w for w in words if rank(w) < rank(w.capitalize())][:6000]
common_set = set(common)

LOCALES = """cs_CZ da_DK de_AT de_CH de_DE en_GB en_IE en_IN en_US en_NZ es_AR es_CL es_CO es_ES es_MX et_EE
fi_FI fr_BE fr_CA fr_CH fr_FR hr_HR hu_HU id_ID is_IS it_IT lt_LT lv_LV nl_BE nl_NL no_NO pl_PL pt_BR pt_PT ro_RO
sk_SK sl_SI sv_SE tr_TR en_PK en_NG en_KE""".split()
PLACES = set("""paris austin florence sydney charlotte london milan vienna geneva lourdes chelsea brooklyn madison
lincoln houston dallas jackson orlando savannah phoenix denver bristol chester kent york lancaster wellington victoria
alexandria santiago israel jordan chad georgia kenya ireland india china asia america holland cuba carolina dakota
virginia washington cleveland columbus hamilton durham norfolk oxford cambridge berlin roma rome lima cali salvador
trinidad guadalupe mercedes ford bentley francisco diego antonio angeles jose monaco san santa saint st los las el la
le de da di du van von den der del dos al bin ben mac mc english french german irish scott welsh spanish latin roman
christian jesus god king queen prince lord lady duke earl baron major general sergeant pope bishop dean judge
january february march april may june july august september october november december monday tuesday wednesday
thursday friday saturday sunday christmas easter north south east west google amazon apple windows java python ruby
rails swift julia kotlin perl lisp linux android chrome safari firefox oracle excel word office outlook
usa uk eu us api ok hi hello dear best regards sincerely thanks cheers amen
buenos aires rio sao new nice nancy tours limerick cork darwin perth adelaide melbourne canterbury cristobal""".split())

flags = {}
def add(name, flag):
    name = unicodedata.normalize("NFC", name).strip().lower()
    if 3 <= len(name) <= 20 and name.isalpha() and all(ord(c) < 0x250 for c in name):
        flags.setdefault(name, set()).add(flag)
        plain = "".join(c for c in unicodedata.normalize("NFD", name) if not unicodedata.combining(c))
        if plain != name:
            flags.setdefault(plain, set()).add(flag)

folder = pathlib.Path(names.__file__).parent
for file, flag, top in [("dist.male.first", "f", 1219), ("dist.female.first", "f", 2000), ("dist.all.last", "s", 4000)]:
    for line in (folder / file).read_text().splitlines()[:top]:
        add(line.split()[0], flag)
for locale in LOCALES:
    provider = importlib.import_module(f"faker.providers.person.{locale}").Provider
    for key in dir(provider):
        flag = "f" if key.startswith("first_names") else "s" if key.startswith("last_names") else None
        if flag and not isinstance(getattr(provider, key), property):
            for name in list(getattr(provider, key))[:500]:
                for part in re.split(r"[\s'’-]+", name):
                    add(part, flag)

lines = []
for name in sorted(flags):
    ambiguous = name in PLACES or name in common_set or rank(name) < 4 * rank(name.capitalize()) and rank(name) < BIG
    lines.append(name + " " + "".join(sorted(flags[name])) + ("?" if ambiguous else ""))
(out / "names.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
(out / "common.txt").write_text("\n".join(common) + "\n", encoding="utf-8")
