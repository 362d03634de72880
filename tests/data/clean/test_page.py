from dist_plm.data.clean.page import Page


def test_words_of_english_and_chinese():
    assert Page("two words, here").words == ["two", "words,", "here"]
    page = Page("今天天气很好，我们去公园散步。")
    assert page.is_chinese
    assert page.words == ["今天天气", "很", "好", "我们", "去", "公园", "散步"]


def test_what_counts_as_chinese():
    assert not Page("An English text that mentions 中国 once.").is_chinese
    assert Page("我们用 PyTorch 训练模型，然后评估。").is_chinese
    assert not Page("これは日本語の文章です。").is_chinese
    assert not Page("").is_chinese


def test_lines_and_paragraphs():
    page = Page("one\n two \n \t\n\nthree\n")
    assert page.lines == ["one", "two", "three"]
    assert page.paragraphs == ["one\n two", "three"]
