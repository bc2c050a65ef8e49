"""Personal data in a text: phone, ID card, bank card, e-mail, address, name, plate, account.

Rules and check digits, no model: what has a fixed form is found wherever it stands; names and
accounts are found where a word before them says what they are ("收货人：…", "微信号：…"). A name in
the middle of a sentence is not found. What `mask` writes is never found again. Standard library.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HALF_WIDTH = str.maketrans("０１２３４５６７８９－（）＋＠．：Ｘｘ", "0123456789-()+@.:Xx")
_HAN = r"[\u4e00-\u9fff]"

# GB/T 2260: the first two digits of an ID card, and the first characters of a number plate.
_PROVINCES = re.compile(r"1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]")
_PLATES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
# The hundred commonest surnames and the commonest of two characters.
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔"
    "钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)
_SURNAMES_OF_TWO = ("欧阳", "上官", "司马", "诸葛", "东方", "皇甫", "尉迟", "公孙", "慕容", "令狐")
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999
_ID_CHECKS = "10X98765432"
_CARD_FIRST_DIGITS = re.compile(r"62|4|5[1-5]|2[2-7]|35|3[47]|6[05]|9[58]")
_EXAMPLE_HOSTS = re.compile(r"(^|\.)(example\.(com|org|net)|[\w.-]+\.(example|invalid|test))$")


@dataclass(frozen=True)
class Span:
    """A piece of personal data: where it stands in the text, and its kind."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class _Rule:
    kind: str
    pattern: re.Pattern[str]
    accept: Callable[[str], bool]

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        """(start, end) of each match that is accepted."""
        if self.kind == "address":
            places = list(_addresses(self.pattern, text))
        else:
            places = [match.span("it") for match in self.pattern.finditer(text)]
        return (place for place in places if self.accept(text[slice(*place)]))


def find_personal(text: str) -> list[Span]:
    """The personal data in `text`, in order, none overlapping another."""
    if len(text) < 3:
        return []
    plain = text.translate(_HALF_WIDTH)  # one character for one, so that places stay
    found: list[Span] = []
    taken = bytearray(len(text))
    for rule in _RULES:
        for start, end in rule.places(plain):
            if any(taken[start:end]):
                continue
            taken[start:end] = b"\1" * (end - start)
            found.append(Span(start, end, rule.kind))
    return sorted(found, key=lambda span: span.start)


def digits_of(text: str) -> str:
    """The digits of `text` alone, in half width (and an ID card's X)."""
    return re.sub(r"[^0-9X]", "", text.translate(_HALF_WIDTH).upper())


def hidden(text: str) -> str:
    """`text` as a report may show it: its ends only."""
    if len(text) < 3:
        return text[:1] + "*"
    kept = 1 if len(text) < 8 else 3
    stars = "*" * min(4, len(text) - 2 * kept)
    return text[:kept] + stars + text[-kept:]


def valid_id_card(digits: str) -> bool:
    """Whether 18 characters are an ID card: province, date of birth, check digit (GB 11643)."""
    if len(digits) != 18 or not _PROVINCES.match(digits) or not _is_date(digits[6:14]):
        return False
    total = sum(int(d) * weight for d, weight in zip(digits, _ID_WEIGHTS, strict=False))
    return digits[17] == _ID_CHECKS[total % 11]


def passes_luhn(digits: str) -> bool:
    """Whether the last digit checks the others as on a bank card (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_date(text: str) -> bool:
    try:
        born = dt.date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return 1900 <= born.year <= 2099


def _is_id_card(text: str) -> bool:
    digits = digits_of(text)
    if len(digits) == 15:  # before 1999: no century, no check digit
        return bool(_PROVINCES.match(digits)) and _is_date("19" + digits[6:12])
    return valid_id_card(digits)


def _is_bank_card(text: str) -> bool:
    digits = digits_of(text)
    well_formed = 15 <= len(digits) <= 19 and len(set(digits)) > 1
    return well_formed and bool(_CARD_FIRST_DIGITS.match(digits)) and passes_luhn(digits)


def _is_phone(text: str) -> bool:
    return len(set(digits_of(text)[-8:])) > 1  # 13800000000 stands for a number, and is none


def _is_real_mail(text: str) -> bool:
    return not _EXAMPLE_HOSTS.search(text.rpartition("@")[2].lower())


def _is_name(text: str) -> bool:
    return text[0] in _SURNAMES or text[:2] in _SURNAMES_OF_TWO


def _is_address(text: str) -> bool:
    return "某" not in text


def _anything(_text: str) -> bool:
    return True


def _addresses(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Where an address may be: around a number with its 号 or 栋, without the words before it.

    Looked for in a window around each number alone, since its pattern is slow on long texts.
    """
    done = 0
    for number in _HOUSE_NUMBER.finditer(text):
        if number.end() <= done:
            continue
        window = (max(done, number.start() - _ADDRESS_BEFORE), number.end() + _ADDRESS_AFTER)
        match = pattern.search(text, *window)
        if match and match.start("it") < number.end():
            done = match.end("it")
            lead = _ADDRESS_LEAD.match(text, match.start("it"), done)
            yield (lead.end() if lead else match.start("it")), done


def _rule(kind: str, pattern: str, accept: Callable[[str], bool] = _anything) -> _Rule:
    return _Rule(kind, re.compile(pattern), accept)


_HOUSE_NUMBER = re.compile(r"\d(?:-\d{1,4})?(?:[号弄栋幢座])")
_ADDRESS_BEFORE, _ADDRESS_AFTER = 60, 40
_ADDRESS_LEAD = re.compile(
    rf"{_HAN}{{0,12}}(?:地址|住在|住|位于|寄[到往给]|送[到往]|发[到往]|写到|改[到为成]|放[到在]|[在到至是为])"
)

# Every repeat is bounded and none stands within another, so that a hostile text of any length
# takes time in proportion to its length. First come those that others could be taken for.
_AREA = _HAN + r"{1,9}?"
_PLACE = (
    rf"(?:{_HAN}{{2,8}}?(?:省|自治区))?(?:{_HAN}{{2,8}}?(?:市|自治州|盟))?"
    rf"(?:{_HAN}{{1,8}}?(?:区|县|旗|市))?(?:{_HAN}{{1,8}}?(?:街道|镇|乡))?"
)
_RULES = (
    _rule("email", r"(?<![A-Za-z0-9_.+-])(?P<it>[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}@[A-Za-z0-9-]{1,63}"
                   r"(?:\.[A-Za-z0-9-]{1,63}){1,4})(?![A-Za-z0-9@-])", _is_real_mail),
    _rule("id_card", r"(?<![0-9A-Za-z])(?P<it>[1-9]\d{5}[ -]?\d{8}[ -]?\d{3}[0-9Xx]"
                     r"|[1-9]\d{14})(?![0-9A-Za-z])", _is_id_card),
    _rule("bank_card", r"(?<![0-9A-Za-z-])(?P<it>[2-9]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{3,4}"
                       r"(?:[ -]?\d{1,3})?)(?![0-9A-Za-z-])", _is_bank_card),
    _rule("phone", r"(?<![0-9A-Za-z])(?:\+?86[ -]?|0086[ -]?)?"
                   r"(?P<it>1[3-9]\d[ -]?\d{4}[ -]?\d{4})(?![0-9A-Za-z])", _is_phone),
    _rule("landline", r"(?<![0-9A-Za-z-])(?P<it>\(?0(?:10|2\d|[3-9]\d{2})\)?[ -]"
                      r"?[2-9]\d{6,7})(?:-\d{1,5})?(?![0-9A-Za-z-])"),
    _rule("plate", rf"(?P<it>[{_PLATES}][A-HJ-NP-Z][·. ]?[A-HJ-NP-Z0-9]{{5,6}})(?![0-9A-Za-z])",
          lambda text: any(character.isdigit() for character in text)),
    _rule("account", r"(?:微信号?|[Ww]e[Cc]hat|[Vv]信|wx)(?:是|为)?[:： ]{0,3}"
                     r"(?P<it>(?!user\d{4})[A-Za-z][A-Za-z0-9_-]{5,19})(?![A-Za-z0-9_-])"),
    _rule("account", r"(?:[Qq]{2}(?:号码?)?)(?:是|为)?[:： ]{0,3}(?P<it>[1-9]\d{4,10})(?!\d)"),
    _rule("address",
          rf"(?P<it>{_PLACE}{_AREA}(?:路|街|大道|大街|巷|胡同|弄|道)(?:{_HAN}{{1,4}}段)?\d{{1,5}}(?:-\d{{1,4}})?[号弄]"
          r"(?:院|楼)?(?:[\u4e00-\u9fff]{1,10}?(?:小区|花园|大厦|公寓|广场|苑|园|城))?"
          r"(?:\d{1,4}(?:号楼|栋|幢|座|单元|室|楼|层|号|户)){0,4})",
          _is_address),
    _rule("address",
          rf"(?P<it>{_AREA}(?:小区|花园|新村|公寓|家园|苑|府|城)\d{{1,4}}(?:号楼|栋|幢|座|号)"
          r"(?:\d{1,3}单元)?(?:\d{1,5}(?:室|号|户)?)?)",
          _is_address),
    _rule("name", r"(?:姓名|收货人|收件人|联系人|寄件人|持卡人|户名|开户名|真实姓名|我叫|本人叫?)"
                  r"(?:是|为|叫)?[:： ]{0,3}"
                  rf"(?P<it>(?:{'|'.join(_SURNAMES_OF_TWO)}|[{_SURNAMES}]){_HAN}{{1,2}})"
                  rf"(?=$|[^\u4e00-\u9fff]|先生|女士|小姐|的|电话|手机)", _is_name),
)  # fmt: skip


def kinds() -> tuple[str, ...]:
    """The kinds that are looked for, in a fixed order."""
    return tuple(dict.fromkeys(rule.kind for rule in _RULES))
