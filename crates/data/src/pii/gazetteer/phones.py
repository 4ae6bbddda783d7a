"""Writes phones.txt: which national numbers each country's numbering plan knows, by libphonenumber's metadata.

usage: python phones.py > phones.txt        (needs PyPI's phonenumbers; phones.txt names its version)

A line a region, tab-separated, in the order in which libphonenumber tries the regions of a calling code:
    calling code, region, leading digits, national prefix for parsing, transform rule, general pattern, valid pattern
A number is valid where the general pattern and one of the kinds' patterns match it whole; the kinds (fixed line, mobile,
toll free, ...) stand in one alternation here.
"""

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

KINDS = [
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost",
    "personal_number", "voip", "pager", "uan", "voicemail",
]  # fmt: skip


def metadata(code, region):
    if region == "001":
        return PhoneMetadata.metadata_for_nongeo_region(code, None)
    return PhoneMetadata.metadata_for_region(region, None)


def main():
    print(f"# libphonenumber {phonenumbers.__version__} (Apache-2.0), by gazetteer/phones.py")
    for code, regions in sorted(COUNTRY_CODE_TO_REGION_CODE.items()):
        for region in regions:
            m = metadata(code, region)
            kinds = [getattr(m, kind) for kind in KINDS]
            patterns = [k.national_number_pattern for k in kinds if k and k.national_number_pattern]
            unique = list(dict.fromkeys(patterns))
            row = [
                str(code), region, m.leading_digits or "", m.national_prefix_for_parsing or "",
                (m.national_prefix_transform_rule or "").replace("\\", "$"),
                m.general_desc.national_number_pattern or "", "|".join(unique),
            ]  # fmt: skip
            assert not any(set("\t\n ") & set(field) for field in row), row
            print("\t".join(row))


if __name__ == "__main__":
    main()
