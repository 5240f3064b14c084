"""Text that says nothing of its encoding: what Japanese telephones put into display names, and how likely each reading is.

UTF-8 is the rule (RFC 3261 section 7.3.1). What is not UTF-8 is CP932 (Shift_JIS with the characters of NEC and IBM), EUC-JP or
Latin-1; short texts can be valid in several of them. Each valid reading is given the bits that its characters cost in a rough
model of names, and the cheapest is taken.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

__all__ = ["decode", "encoded_words", "escaped_jis", "unescaped_name"]

_COMMON = (
    "佐藤鈴木高橋田中伊渡辺山本村小林加吉々口松井上斎清水崎森池阿部石川下島岡前長谷後近遠青坂斉福太西金子原三浦野竹内和上柴酒宮横安大工今"
    "増丸杉塚新平河武千葉菅岩久保尾菊市古桜北飯五十嵐服土屋樋秋荒永間馬場浜片須早熊矢白星望月黒堀成奥柳八宅広瀬根沢篠南浅岸東関辻相会"
    "赤秋朝倉足立天有生垣稲犬植牛臼江榎海老沖落合寺柏桐鎌亀神窪栗桑泉児玉西賀駒榊笹志庄司条瀬戸関滝代津堤角手富豊尚名取二羽沼畠花日深船細"
    "江牧丹向室門若綾渕岐荻梶柿笠桂狩苅刈岳園塩曽曾染袋館竜龍鶴鷹鴨鳥鹿猪猿羊貝蛭飛城坊坪堂塔境士壁多夕夜夢太央妹姫宇守宗官定宝実客宮家容宿寄"
    "富寛寧審寸封射将小少尾局居展山岐岡岩岬岳峰島崇嵯嶋嶺川州巌左巧巨巳市布帆希師席常幌幡平年幸広床康庭弁弓弘強当形彦彩影律後徳心志忍快念忠"
    "正悟悠恒恭恵息悦惇情惟想愛慈慎慶憲懐成我戸房所手才承折抄拓持指振捷授掛揚推敏教敦文斗新方旅日旦早旭旺昂昆昇昌明易星映春昭是時晃晋晏晴智暁"
    "暢曜曲書曽月有朋服望朔未末札本杏李村杜来松板林枝果柄柊柔査柚柱栄栞校株根格桃桐梅梓梢梨棟森椋椎椿楊楓楠業楽榛槙樹橘櫻檀欣次武歩毅比毛民"
    "水永江汐沙沢河治泉法波泰洋津洸活流浄浅浩浪海涼淑淳深清渉渚温湊湖湯満源準溝滉滋滝漆潔潤潮澄激瀬灯点為照熊熙燎爽牧特玄玲珠理琉琢琳瑚瑛瑞瑠"
    "璃環生産田由男町畑留番登白百皆皇皓盛盤目直相眞真矢知石研砂硬碧磨磯示社祐祖神祥禄福秀秋科穂稔積穣空立竜章童竹笑笛等筒節篤米精紀約純紗紘紋"
    "素紫細紹経結絢統絵綜維網綺綾緑緒線練縁織美羽翁翔翠翼耕聖聡肇育能臣自至舞舟航良芙芝芦花芳芹苑苗若茂茉茜草荒荘莉菖菜華萌萩葉葦董葵蒔蒼蓉"
    "蓮蔵薫藍藤蘭虎虹融行街衛衣裕裟西要見規親観角言計訓記詩誉誠語誓諒請論識譲議護谷豊象貞貢貫貴賀資賢赤越路車軍軒輔輝農辰迪逸逞造連週進遊運遥"
    "道達遠邦郁郎郷都酒里重野金鈴鉄銀鋭錦鎌鐘長門開陣院陸陽隆隈隼雄雅雛雨雪雫雲零電雷露青靖静音響順須頭頼顕風颯飛食飾館香馨駿騎高鬼魁鮎鯨鳩鳳"
    "鳴鴻鵬鷲鶴鷹麗麻黄黎黒鼓龍一二三四五六七八九十百千万億号係部課局室長員営業総務経理人事開発技術製造品質管理企画広報宣伝販売購買物流倉庫工場本"
    "社支店出張所受付代表会議警備秘書役員第株式有限合同財団法学校病院薬局銀行市区町県都道府庁消防警察郵便図館事務予約相談窓口客様内線外電話機械建設"
    "商店歯科眼科整形児保育園幼稚高等大学研究者先生教授主任担当責任専取締副係夜間休緊急共用作業控食堂厨房階入退玄関駐車港空駅東西南北京阪神名古屋"
    "札幌仙台横浜広島福岡沖縄健剛徹勝勇修学守茂進聡博圭俊介慎吾祐洋悦孝之貴雅紀弥也哉亮諒涼凌翼匠樹大翔蓮湊颯悠陽咲菜結凛心莉優奈愛美乃々衣花香織"
    "沙紀奈津枝江恵代世子里紗織絵梨加寿喜典則信重義忠勲功政治敬恒毅豪力男夫雄郎朗助吉丈仁公文武士志司詞伸伶佳侑俣俵倫偉健優元充光兆克全兵具"
    "典冬冴凌凛凜凪刀初利別制剣創力加助勇勉動勘務勝勢勲匡匠十千升半卓協南博厚厳又友反叔口古可台史叶司合吉同向君吾周味命和哉哲唯唱問啓善喜器噌囲国"
    "圏園土圭地均坂坪垂城基堀堅報場堺塁境墨壮声士売壱夏外多夢大天夫央失奇奈奏契奥女好如妃妙妻姉始姓委姿威娘娯媛嬉嬢子孔字存孝季孟学宅宇守安完"
)
"""Kanji that names, offices and companies are made of, more or less."""
_FREQUENT = 150
"""So many of them begin with those that are most frequent in names."""
_KANJI = dict.fromkeys(_COMMON, 8.5) | dict.fromkeys(_COMMON[:_FREQUENT], 6.5)
_RARE = frozenset("髙﨑濵德淸瀨黑郞槇祐琢邊邉齋齊澤濱廣國櫻嶋冨眞惠瀧將榮壽實條圓彌瑤凉淼咲亨亘")

# Bits that a half-width kana costs, from how often names have it.
_KANA: dict[str, float] = {kana: bits for bits, kanas in (
    (4.0, "ｼｳｲｶｷﾀﾞﾏﾅﾐｺﾔ"), (4.7, "ﾄﾝﾗﾘｽｻﾉﾊﾓｵﾂﾕﾋｹﾁ"), (5.6, "ｱｴｸﾎﾜﾃﾌﾑﾙﾛﾖｭｮﾈﾆｿｾﾚ"), (8.0, "ｯｬﾇﾒﾍｰﾟ"), (13.0, "ｦｧｨｩｪｫ･"),
    (18.0, "｡｢｣､")) for kana in kanas}
_FORBIDDEN = re.compile(
    "(?<![ｦ-ﾟ])[ｧ-ｯﾞﾟﾝｰ]|(?<![ｳｶ-ﾄﾊ-ﾎ])ﾞ|(?<![ﾊ-ﾎ])ﾟ|(?<![ｷｼﾁﾆﾋﾐﾘﾞﾟ])[ｬｭｮ]|(?<![ｶ-ﾎﾏ-ﾝｦﾞﾟ])ｯ|[ｯ](?![ｶ-ﾄﾊ-ﾎ])|･(?![ｱ-ﾝ])")
"""What no word in half-width kana has: a small letter, sound mark or ﾝ to begin with, marks on what has no voice …"""
_RUNS, _RUN_BITS = re.compile("[ｦ-ﾟ]{5,}"), 1.0
"""Of the letters beyond four in a row of half-width kana: so many that make sense are no chance."""
_BORDER = re.compile("[ｦ-ﾟ][一-鿿ぁ-ヶ]|[一-鿿ぁ-ヶ][ｦ-ﾟ]|[A-Za-z][一-鿿]|[一-鿿][a-z]|[ぁ-ん][ァ-ヶ]|[ァ-ヶ][ぁ-ん]")
_EUC_BIAS, _EUC_KANA_BITS, _UTF_8_BIAS, _CUT_BITS = 2.0, 3.0, -8.0, 14.0

_DOUBTFUL = re.compile(rb"(?:[\x00-\x7f]++|(?<![A-Za-z])(?:[\xc2-\xdf][\xa1-\xbf])++(?![A-Za-z\x80-\xff]))*+")
"""UTF-8 that may as well be half-width kana: two octets a letter, and none of ASCII's in the same word."""
_LATIN = re.compile(rb"[A-Za-z][\xc0-\xff]|[\xc0-\xff][A-Za-z]")
_NOT_LATIN = re.compile(rb"[\x80-\xbf]|[\xc0-\xff]{2}")
_UNASSIGNED = re.compile("[\x80\uf8f0-\uf8f3]")
"""What Python makes of the octets 80, A0 and FD to FF, which are no CP932."""
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_SCRIPTS = ((0x00C0, 0x024F), (0x0370, 0x03FF), (0x0400, 0x04FF), (0x0531, 0x0587), (0x05D0, 0x05EA), (0x0620, 0x064A))
_LONGEST = 512
"""Octets that are weighed."""


def decode(data: bytes) -> str:
    """Text that says nothing of its encoding: UTF-8, else what is likelier of CP932, EUC-JP and Latin-1; never raises.

    UTF-8 that was cut within a character (devices bound names by octets) is still UTF-8. Latin-1 is taken where each
    letter beyond ASCII stands alone within a word. What is nothing of these is UTF-8 with U+FFFD in it.
    """
    try:
        text = data.decode("utf-8")
        if text.isascii() or not _DOUBTFUL.fullmatch(data):
            return text
        readings = [(_cost(text), text)]
    except UnicodeDecodeError as error:
        readings = []
        cut = _cut(data, error)
        if cut is not None:
            readings.append((_cost(cut) + _CUT_BITS, cut))
    if not _NOT_LATIN.search(data) and _LATIN.search(data):
        return data.decode("latin-1")
    for text in _strictly(data, "cp932"):
        if not _UNASSIGNED.search(text):
            readings.append((_cost(text), text))
    for text in _euc_jp(data):
        readings.append((_cost(text) + _EUC_BIAS + _EUC_KANA_BITS * len(_KANA.keys() & set(text)), text))
    if readings:
        return min(readings)[1]
    return data.decode("latin-1") if not re.search(rb"[\x80-\x9f]", data) else data.decode("utf-8", "replace")


def _strictly(data: bytes, encoding: str) -> Iterator[str]:
    try:
        yield data.decode(encoding)
    except UnicodeDecodeError:
        return


def _euc_jp(data: bytes) -> Iterator[str]:
    """EUC-JP; with NEC's characters (CP51932: 髙 is FC E2) where it is none without them."""
    if data.isascii():
        return
    found = list(_strictly(data, "euc_jp"))
    if not found and (same := _as_cp932(data)):
        found = list(_strictly(same, "cp932"))
    yield from found


def _as_cp932(data: bytes) -> bytes:
    """EUC-JP octets as CP932 has the same characters (JIS X 0208 appendix 1); nothing where it is none."""
    made, at = bytearray(), 0
    while at < len(data):
        lead = data[at]
        trail = data[at + 1] if at + 1 < len(data) else 0
        if lead < 0x80:
            made.append(lead)
            at += 1
            continue
        if lead == 0x8E and 0xA1 <= trail <= 0xDF:
            made.append(trail)
        elif 0xA1 <= lead <= 0xFE and 0xA1 <= trail <= 0xFE:
            row, cell = lead - 0xA1, trail - 0xA1
            made.append(0x81 + row // 2 if row < 62 else 0xC1 + row // 2)
            made.append(0x9F + cell if row % 2 else 0x40 + cell + (cell > 62))
        else:
            return b""
        at += 2
    return bytes(made)


def _cut(data: bytes, error: UnicodeDecodeError) -> str | None:
    """UTF-8 whose last character before a delimiter or the end was cut; None where it is anything else."""
    head, rest = data[:error.start], data[error.end:]
    if data[error.start] < 0xC2 or rest[:1] >= b"\x80" or head.isascii():
        return None
    try:
        return f"{head.decode()}\ufffd{rest.decode()}"
    except UnicodeDecodeError:
        return None


def _cost(text: str) -> float:
    """Bits that a reading costs; only differences between readings of the same octets mean anything."""
    text = text[:_LONGEST]
    bits = 5.0 * len(text)
    for part in _NON_ASCII.findall(text):
        bits += sum(map(_bits_of, part)) - 5.0 * len(part)
        if part[0] < "\u0800":
            bits += _mixed(part)
    bits -= sum(_RUN_BITS * (len(run) - 4) for run in _RUNS.findall(text))
    return bits + 12.0 * len(_FORBIDDEN.findall(text)) + 6.0 * len(_BORDER.findall(text))


def _bits_of(c: str) -> float:
    kana = _KANA.get(c)
    if kana is not None:
        return kana
    if c in _KANJI:
        return _KANJI[c]
    if "ぁ" <= c <= "ん" or "ァ" <= c <= "ヶ" or c in "ー　々":
        return 7.0
    if "一" <= c <= "鿿":
        return 13.0 if c in _RARE else 14.0 if _is_level_1(c) else 19.0
    if "！" <= c <= "～" or c in "・（）【】「」〜－":
        return 9.0
    if c < "\u0800":
        return 8.0 if c >= "\u00a0" else 40.0
    return 40.0 if "\ue000" <= c <= "\uf8ff" else 13.0 if c in "﨑塚晴神福" else 22.0


def _is_level_1(c: str) -> bool:
    """Whether a kanji is of JIS X 0208's first level, the more frequent ones."""
    try:
        return 0x889F <= int.from_bytes(c.encode("shift_jis"), "big") <= 0x9872
    except UnicodeEncodeError:
        return False


def _mixed(part: str) -> float:
    """Bits that a run of letters of two octets each costs beyond them: few for a word in one script, many for anything else."""
    scripts = {next((n for n, (first, last) in enumerate(_SCRIPTS) if first <= ord(c) <= last), -1) for c in part}
    return _UTF_8_BIAS if len(scripts) == 1 and -1 not in scripts and 0 not in scripts and len(part) > 2 else 20.0


# -- encodings that say so -----------------------------------------------------
_JIS = re.compile("\x1b(?:\\$\\(?[@BD]|\\([BJI])")
_WORD = re.compile(r"=\?([0-9A-Za-z_.:-]{1,40})(?:\*[0-9A-Za-z-]{0,20})?\?([BbQq])\?([^?\s]{0,1024})\?=")
_SPACE_BETWEEN = re.compile(r"(\?=)[ \t]+(?==\?)")
_ESCAPED_UTF_8 = re.compile("%[c-fC-F][0-9A-Fa-f]%[89abAB][0-9A-Fa-f]")
_CHARSETS = {
    **{name: name for name in ("utf-8", "us-ascii", "iso-2022-jp", "iso-2022-jp-2", "euc-jp", "gb2312", "gbk", "gb18030", "big5",
                               "euc-kr", "koi8-r", "windows-1250", "windows-1251", "windows-1252")},
    **{f"iso-8859-{n}": f"iso-8859-{n}" for n in (*range(1, 12), *range(13, 17))},
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "cp932", "ms_kanji"), "cp932"),
    "utf8": "utf-8", "x-euc-jp": "euc-jp", "cp51932": "euc-jp", "iso2022jp": "iso-2022-jp", "cp1252": "windows-1252",
}
"""What Python may be asked for, by what messages call it (IANA, Character Sets)."""


def escaped_jis(text: str) -> str:
    """ASCII text with what stands in it in ISO-2022-JP (RFC 1468) decoded; unchanged where there is none or it is broken."""
    if "\x1b" not in text or not text.isascii() or not _JIS.search(text):
        return text
    try:
        return text.encode().decode("iso2022_jp_ext")
    except UnicodeDecodeError:
        return text


def encoded_words(text: str) -> str:
    """The text with MIME's encoded words (RFC 2047) in it decoded; one that is broken or in an unknown charset stays."""
    return _WORD.sub(lambda word: _decoded(*word.groups()) or word[0], _SPACE_BETWEEN.sub(r"\1", text))


def unescaped_name(name: str) -> str:
    """A display name that was put into ASCII: by encoded words, or as a URI escapes UTF-8 (which nothing provides for)."""
    if "=?" in name:
        name = encoded_words(name)
    elif "%" in name and name.isascii() and _ESCAPED_UTF_8.search(name):
        try:
            return unquote_to_bytes(name).decode()
        except UnicodeDecodeError:
            return name
    return name


def _decoded(charset: str, kind: str, content: str) -> str:
    name = _CHARSETS.get(charset.lower())
    if name is None:
        return ""
    try:
        data = base64.b64decode(content + "=" * (-len(content) % 4), validate=True) if kind in "Bb" else quopri.decodestring(
            content.encode(), header=True)
        return data.decode(name)
    except (ValueError, binascii.Error):
        return ""
