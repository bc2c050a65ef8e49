from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trainer.personal import find_personal, hidden, passes_luhn, valid_id_card


def found(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find_personal(text)]


@pytest.mark.parametrize(
    ("text", "kind", "piece"),
    [
        ("电话13812345678，谢谢", "phone", "13812345678"),
        ("请打138-1234-5678", "phone", "138-1234-5678"),
        ("+86 139 8765 4321", "phone", "139 8765 4321"),
        ("１３８１２３４５６７８", "phone", "１３８１２３４５６７８"),
        ("座机010-88886666", "landline", "010-88886666"),
        ("(0571)87654321转12", "landline", "(0571)87654321"),
        ("身份证11010519491231002X。", "id_card", "11010519491231002X"),
        ("身份证11010519491231002x。", "id_card", "11010519491231002x"),
        ("旧证110105491231002", "id_card", "110105491231002"),
        ("卡号6222 0212 3456 7890 128", "bank_card", "6222 0212 3456 7890 128"),
        ("卡号4111111111111111", "bank_card", "4111111111111111"),
        ("发到li.lei@163.com吧", "email", "li.lei@163.com"),
        ("他住杭州市西湖区文三路478号3幢502室", "address", "杭州市西湖区文三路478号3幢502室"),
        ("地址：北京市朝阳区建国路88号", "address", "北京市朝阳区建国路88号"),
        ("阳光小区3栋2单元501室", "address", "阳光小区3栋2单元501室"),
        ("改到幸福路12号了", "address", "幸福路12号"),
        ("收货人：张伟，已付", "name", "张伟"),
        ("我叫欧阳小明。", "name", "欧阳小明"),
        ("车牌浙A12345", "plate", "浙A12345"),
        ("微信：abc_12345", "account", "abc_12345"),
        ("QQ号是123456789", "account", "123456789"),
    ],
)  # fmt: skip
def test_each_kind_is_found_with_its_bounds(text: str, kind: str, piece: str) -> None:
    """Exactly the piece itself, in any of the ways that people write it."""
    assert found(text) == [(kind, piece)]


@pytest.mark.parametrize(
    "text",
    [
        "订单号20240501001，预计明天送达",
        "订单号6222021234567890123456",
        "身份证110105194912310021",  # its check digit is wrong
        "身份证110105194913310020",  # the 13th month
        "卡号6222021234567890123",  # fails Luhn
        "请拨打400-800-1234",
        "占位13800000000",
        "满200元减20，第3栋",
        "请提供联系人电话和姓名",
        "see help@example.com",
        "版本 1.2.3-20240501",
        "在本店下单满99元包邮",
        "J800净水器 滤芯14个月",
        "sk-13812345678abc",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    """Order numbers, service lines, prices, placeholders: a false alarm costs a look each."""
    assert found(text) == []


def test_several_in_one_text_come_in_order() -> None:
    """None overlaps another, whatever rule found it."""
    text = "收货人：王芳，电话13912345678，地址：上海市浦东新区世纪大道100号"
    assert [kind for kind, _piece in found(text)] == ["name", "phone", "address"]


def test_check_digits_are_those_of_the_standards() -> None:
    """GB 11643's own example, and the test number of ISO/IEC 7812."""
    assert valid_id_card("11010519491231002X")
    assert not valid_id_card("110105194912310021")
    assert passes_luhn("79927398713")
    assert not passes_luhn("79927398710")


def test_a_report_shows_the_ends_alone() -> None:
    """Enough to find the piece in the file, not enough to use it."""
    assert hidden("13812345678") == "138****678"
    assert hidden("李小明") == "李*明"
    assert hidden("张伟") == "张*"


@pytest.mark.parametrize(
    "piece", ["市", "省市区县路", "a@", "a.", "路1", "1", "13812345678 ", "号1号"]
)
def test_a_hostile_text_takes_time_in_proportion(piece: str) -> None:
    """A long text of what the rules look for is searched; a rule that backtracks would hang."""
    find_personal(piece * (200_000 // len(piece)))


@given(st.text(alphabet="0123456789 -路号市区栋张王李@.abX京A：收货人微信", max_size=60))
def test_spans_are_in_order_and_apart(text: str) -> None:
    """Each lies in the text and ends before the next begins."""
    end = 0
    for span in find_personal(text):
        assert end <= span.start < span.end <= len(text)
        end = span.end
