"""Writes verdicts.tsv: which numbers libphonenumber (PyPI's phonenumbers) takes for valid.

usage: python verdicts.py > verdicts.tsv

Each row: `+` and the digits after the plus, or a region and the digits as dialled there; 1 for valid. The numbers are
libphonenumber's own examples of every kind and region, as they are, with the national prefix, with a digit changed,
added or left out.
"""

import random

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneNumberType

HOMES = ["US", "GB", "DE", "FR", "ES", "IT", "IN", "BR", "AR", "MX", "JP", "AU", "NL", "SE", "CH", "AT", "PL", "CA"]


def verdict(digits, region):
    try:
        number = phonenumbers.parse(digits if region else "+" + digits, region)
    except phonenumbers.NumberParseException:
        return 0
    return int(phonenumbers.is_valid_number(number))


def variants(code, national, draw):
    yield code + national
    at = draw.randrange(len(national))
    yield code + national[:at] + draw.choice("0123456789") + national[at + 1 :]
    yield code + national[:at] + draw.choice("0123456789") + national[at:]
    yield code + national[:at] + national[at + 1 :]
    yield code + "0" + national


def main():
    draw = random.Random(7)
    print(f"# phonenumbers {phonenumbers.__version__}, by verdicts.py")
    rows = {}
    for code, regions in sorted(COUNTRY_CODE_TO_REGION_CODE.items()):
        for region in regions:
            for kind in [v for k, v in vars(PhoneNumberType).items() if isinstance(v, int)]:
                example = (
                    phonenumbers.example_number_for_non_geo_entity(code)
                    if region == "001"
                    else phonenumbers.example_number_for_type(region, kind)
                )
                if example is None:
                    continue
                national = phonenumbers.national_significant_number(example)
                for digits in variants(str(code), national, draw):
                    rows["+", digits] = verdict(digits, None)
                if region not in HOMES:
                    continue
                for digits in [*variants("", national, draw), "1" + national]:
                    rows[region, digits] = verdict(digits, region)
    for (region, digits), valid in rows.items():
        print(region, digits, valid, sep="\t")


if __name__ == "__main__":
    main()
