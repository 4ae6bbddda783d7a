"""Writes formats.tsv: a mobile and a fixed number of every region as libphonenumber writes them.

usage: python formats.py > formats.tsv        (needs PyPI's phonenumbers)

Each row: `international` or `national`, and the number.
"""

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType


def main():
    print(f"# phonenumbers {phonenumbers.__version__}, by formats.py")
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for kind in (PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE):
            number = phonenumbers.example_number_for_type(region, kind)
            if number is None:
                continue
            for name in ("INTERNATIONAL", "NATIONAL"):
                text = phonenumbers.format_number(number, getattr(PhoneNumberFormat, name))
                print(name.lower(), text, sep="\t")


if __name__ == "__main__":
    main()
