"""The phrases with which texts state, deny, hedge and quote an answer, in English and some other languages."""

import re

_CORRECT = (
    r"(?:correct|right|best|true|accurate|appropriate|likely|probable|plausible|suitable|fitting|final|valid|logical)"
)
_NOUN = r"(?:option|choice|letter|response|selection|statement|alternative|one|candidate|solution|possibility)"
_VERB = (
    r"(?:is|was|are|['’]s|(?:would|must|should|will|has\s+to)(?:\s+\w+)?\s+be|could only be|can only be|seems to be|"
    r"appears to be|ought to be|turns out to be|becomes|remains|likely be|to be)"
)
# A noun that promises an answer; a verb or a sign that gives it follows in the same sentence.
SUBJECT = re.compile(
    rf"(?<![A-Za-z])answers?(?![A-Za-z])|\bans(?=\s*[:.])|\b{_CORRECT}\s+(?:\w+\s+)?{_NOUN}\b|\b{_NOUN}\s+(?:that|which)\s+(?:\w+\s+){{0,3}}?"
    rf"(?:fits?|matches|answers|suits|describes|explains|reflects|captures|is\s+(?:the\s+)?(?:most\s+)?{_CORRECT})\b"
    r"|\b(?:response|selected\s+(?:option|answer))(?=\s*[*_]*\s*:)|\bmy\s+(?:best\s+)?(?:choice|pick|guess|selection|vote|conclusion)\b|\b(?:solution|conclusion)\b"
    r"|\b(?:Antwort|Lösung|(?:richtige|korrekte|beste|zutreffende)\s+(?:Option|Aussage|Wahl|Alternative|Möglichkeit))\b"
    r"|\b(?:réponse|(?:bonne|meilleure)\s+option|option\s+correcte)\b"
    r"|\b(?:respuesta|opción\s+(?:correcta|adecuada)|mejor\s+opción)\b"
    r"|\b(?:resposta|opção\s+(?:correta|certa)|alternativa\s+correta)\b"
    r"|\b(?:risposta|opzione\s+(?:corretta|giusta))\b"
    r"|\b(?:antwoord|svaret|svar|odpowied[zź]|odpověď|cevap|yanıt|jawaban(?:nya)?|vastaus|răspunsul?|đáp\s+án|válasz)\b"
    r"|\b(?:ответ|відповідь|правильный\s+вариант|верный\s+вариант|отговор)\b|απάντηση|תשובה|الإجابة|الجواب|उत्तर"
    r"|答案|正解|答え|回答|정답|답(?=은|:|：)|(?:正确|正確|最佳)(?:的)?(?:选项|選項)",
    re.IGNORECASE,
)
GIVES = re.compile(
    rf"[\"'*_>`]{{0,4}}\s*[:=：]\s*|\s*(?:→|->|=>|—|–|\s-\s)\s*|\b{_VERB}(?![\w-])|>\s*"
    r"|(?<=odpowiedź)\s+to\b|\b(?:lautet|ist|wäre|est|es|sería|é|seria|è|sarebbe|is|är|er|jest|je|adalah|ialah|là|este|είναι|это|"
    r"является)\b|הוא|היא|هي|هو|है|应该是|應該是|应为|應為|(?<!不)是|为|為|は|が|은|는|选择|选|選",
    re.IGNORECASE,
)
# Phrases that give the answer right behind them.
PICKS = re.compile(
    r"\bI(?:['’]d|['’]ll|['’]m|\s+would|\s+will|\s+must|\s+have\s+to|\s+am|\s+can\s+only)?\s+(?:therefore\s+|thus\s+|"
    r"then\s+|still\s+|now\s+)?(?:choose|chose|pick|select|selected|picked|identify|identified|go(?:ing)?\s+(?:with|for)|went\s+with|opt\s+for|"
    r"vote\s+for|settle\s+on|answer|say|conclude\s+(?:that\s+)?(?:it\s+is|it['’]s)?|believe\s+(?:that\s+)?(?:it\s+is|it\s+to\s+"
    r"be)|think\s+(?:that\s+)?it(?:\s+is|['’]s))\b"
    r"|\b(?:let['’]s|we)\s+(?:choose|pick|select|go\s+with)\b|\b(?:ich\s+(?:wähle|entscheide\s+mich\s+für))\b"
    r"|\bje\s+(?:choisis|choisirais)\b|\b(?:elijo|escojo|escolho|scelgo|выбираю)\b"
    r"|\b(?:ist|wäre)\s+(?:die\s+)?(?:richtige\s+|korrekte\s+)?(?:Antwort|Option|Lösung)\b"
    r"|[\"'](?:answer|choice|option|letter|final_answer|selected|selection|selected_option|correct_option)[\"']\s*:\s*"
    r"|\\boxed\s*(?=\{)|(?:因此|所以|故|应该|應該|我)?(?:选择|選擇|选|選)(?!项|項|择题)",
    re.IGNORECASE,
)
# Without a formal statement, and only at the end of a sentence: "so it is (C)".
WEAK = re.compile(
    r"(?:\bit\s+(?:is|must\s+be|has\s+to\s+be)|\bit['’]s|\bthat\s+(?:is|leaves(?:\s+us\s+with)?)|\bleav(?:es|ing)(?:\s+only|\s+us"
    r"\s+with)?|\bonly|\bso|\bthus|\btherefore|\bhence|\bpoints\s+to|\bcorresponds\s+to|\bmatches|\bmeans|→|=>|->)[:,]?\s+"
    r"(?=(?:(?:option|choice|answer|letter)\s+)?[*_(\[]*\(?[A-Z][)\]]|(?:option|choice|answer|letter)\s+[*_]*[A-Z]\b)",
    re.IGNORECASE,
)
# The option stands first: "(C) is the correct answer", "Option C fits best".
BEHIND = re.compile(
    rf"\s*[*_)\].:,]*\s*(?:(?:this|that|it)\s+)?(?:therefore\s+|thus\s+|clearly\s+|indeed\s+|hence\s+)?(?:{_VERB}\s+(?:therefore\s+|thus\s+|clearly\s+|"
    rf"indeed\s+|also\s+|probably\s+|most\s+likely\s+)?(?:(?:the|my|our)\s+(?:\w+\s+){{0,2}}?(?:answer|option|choice)\b"
    rf"|(?:the\s+)?(?:most\s+)?{_CORRECT}\b(?!\s+(?:about|that|in\s+saying|but|to\s+some|in\s+part)))"
    r"|remains\b|is\s+(?:all\s+that\s+is\s+)?left\b|(?:fits|matches|answers|explains|describes|captures)\s+(?:\w+\s+){0,3}?best\b"
    r"|ist\s+(?:die\s+)?(?:richtige?|korrekte?)(?:\s+(?:Antwort|Option))?\b|est\s+(?:la\s+)?(?:bonne|correcte)\b"
    r"|es\s+(?:la\s+)?(?:respuesta|correcta|opción)\b|(?:是|が)?(?:正确|對|对|正確|正解|最佳))",
    re.IGNORECASE,
)
# Letters and digits of scripts that write words with spaces between them: no part of a word is an option's letter.
_LATIN = "A-Za-z0-9_\u00c0-\u024f\u0370-\u052f"
BRACKETED = re.compile(
    r"[(\[{<（【「]\s*(?:(?:option|choice|letter|answer)\s+)?[\"'*_]*([A-Za-z])[\"'*_]*\s*(?:[)\]}>）】」]|$)",
    re.IGNORECASE,
)
CLOSED = re.compile(r"([A-Za-z])[)\]}）]")
# A bare letter must be no word ("A dog", "I think"), no abbreviation ("C.I.A.") and no part of one ("B-movies").
BARE = re.compile(
    rf"([A-Z])(?![{_LATIN}+#]|['’]\w|-\w|\.\w|[ \t]*\.[ \t]*[^\W\d_]\.)(?=\s*$|\s*[^\w\s]|\s*\n|[^\x00-\x7f])"
)
BARE_WORDS = re.compile(
    r"([B-HJ-Z])(?=\s+(?:because|since|as|which|that|for|due|given|I|in\s+my|here|and\s+(?:it|so|not|the)|while|when|where|who|is|was|would|with|from|without|based|richtig|korrekt|weil|da|denn|car|parce|porque)\b)"
)
BARE_ARTICLE = re.compile(r"([AI])(?=\s+(?:because|since|as|which)\b)")
LONE_SMALL = re.compile(r"([a-z])(?=\s*[.!]?\s*(?:$|\n))")
NAMED = re.compile(
    rf"(?:(?:\b(?:option|choice|answer|letter)\s+|选项\s*|選項\s*)[*_\"']*)?"
    rf"(?:[(\[（]([A-Za-z])[)\]）]|(?<![{_LATIN}'’.-])([A-Z])(?![{_LATIN}'’-]|\.\w))"
)
LETTER_FIRST = re.compile(
    r"(?:option\s+|choice\s+)?[(\[]?\s*([A-Z])(?![A-Za-z])\s*[)\].:,]*(?:[*_]*\s*[-–—:.)]*\s*(.*))?",
    re.IGNORECASE | re.DOTALL,
)
# Signs, marks and words that may stand between a phrase and the option.
LEAD = re.compile(
    r"(?:\.{2,}|…|[\s:：*_\"'“”‘’`„«»$>#~=,\-–—➡→✅✔☑]|\\\w+\s*\{|\\[(\[]|\\[,;! ]|\{|<\w{2,}>"
    r"|\d+\.\s+(?=[(*\w])|[^\w\s()\[\]（）【】+−.<\\/?!]"
    r"|(?:therefore|thus|hence|clearly|obviously|indeed|probably|most\s+likely|very\s+likely|likely|actually|still|simply|"
    r"definitely|certainly|surely|best|then|now|now\s+clear|as\s+follows|that|in\s+fact|of\s+course|always|also|only|"
    r"the\s+(?:letter|option|choice|answer)|option|choice|letter|answer|number|Option|Antwort|daher|somit|folglich|also|donc|(?:por\s+lo\s+)?tanto|la|el|"
    r"l['’]option|la\s+opción|opção|opzione|lettre|letra|вариант|буква|选项|選項|选择|詞)(?![\w'’]))+",
    re.IGNORECASE,
)
DENIAL = re.compile(
    r"(?:not|neither|none\s+of|no\s+longer|never|unlikely|supposed(?:ly)?|(?:less|least)\s+likely|nicht|keine|weder|pas|no\s+es|не|不是|不)(?![\w'’])",
    re.IGNORECASE,
)
# One more option behind one that was named: a hedge, a list, or shares of belief.
ALSO = re.compile(
    r"(?!\s*\n\s*\n)\s*[*_\"'’”)\]}]*\s*(?:(?:,\s*)?(?:or|and/or|and|oder|und|ou|et|o|y|e|или|и)\b\s*|(?:或者?|和|与|または)\s*|[,/&+|、]\s*|[–—-](?=[A-Z](?!\w))|(?=\([A-Z]\))|\s+)"
    r"(?:(?:possibly|maybe|perhaps|also|even|both|either)\s+)*(?:option\s+|choice\s+|letter\s+)?[*_\"'‘“]*"
    r"(?:[(\[（]\s*([A-Za-z])\s*[)\]）]|([A-Z])(?!\w|['’]\w|-\w|\s+[a-z]))",
)
DISMISSED = re.compile(
    r"[*_)\]]*\s*(?:is|are|was|were|can|cannot|does|do|seems?|would|isn['’]t)\s+(?:both\s+)?(?:be\s+)?(?:not|n['’]t|wrong|incorrect|false|too|ruled|excluded|out\b|unlikely)|[*_)\]]*\s*(?:isn|doesn|can)['’]t",
    re.IGNORECASE,
)
JOINED_BEFORE = re.compile(
    r"[A-Z)][*_]*\s*(?:,|/|,?\s*\b(?:or|and|nor|noch|ni))\s*[*_(]*$|\b(?:neither|nor|weder|ni)\W*$"
)
PERCENT = re.compile(r"\s*[:(]?\s*\d+(?:\.\d+)?\s*%")
CONDITION_BEHIND = re.compile(
    r"[^.!?\n]{0,60}?\b(?:if|unless|provided|otherwise|assuming|depending|falls|sofern|wenn)\b(?!\s+(?:we|you|one)\s+(?:look|read|consider|re-?read|go\s+by|follow))",
    re.IGNORECASE,
)
CONDITION_BEFORE = re.compile(
    r"^\W*(?:if(?!\s+(?:we|you|one|I)\s+(?:look|read|consider|re-?read|go|had\s+to))|unless|suppose|assuming|had\s|were\s|provided|in\s+case|should\s+(?:the|it|they)|wenn|falls|whether)\b(?!.*\b(?:so|therefore|thus|hence|then\s+it\s+follows)\b)",
    re.IGNORECASE,
)
OTHERS_OPINION = re.compile(
    r"\b(?:might|may|could|would|will|can)\s+(?:be\s+)?(?:(?:easily|well|also|first|at\s+first)\s+)?(?:think|say|argue|believe|assume|suppose|claim|tempted|object|guess)\b"
    r"|\b(?:some|many|people|others|one)\s+(?:might\s+|may\s+|will\s+|would\s+)?(?:think|say|argue|believe|assume|claim)\b|\bat\s+first\s+(?:glance|sight)\b"
    r"|\b(?:question\s+is|ask(?:s|ed)?|know|wonder|determine|decide|say|see|sure|tell)\s+(?:me\s+|us\s+)?(?:what|which|whether|if)\b|\b(?:of\s+the\s+form|end\s+with|ends\s+with|in\s+the\s+form|write|the\s+format)\b",
    re.IGNORECASE,
)
TAKEN_BACK = re.compile(
    r"[^.!?\n]{0,80}?[,;–—-]\s*(?:but|however|yet|although|though)\s+(?:that|this|it|(?:that|this)\s+one)\s*(?:['’]s|is|was|would\s+be|seems|can)\s*(?:be\s+)?"
    r"(?:not\b|wrong|incorrect|false|a\s+(?:mistake|trap)|too)",
    re.IGNORECASE,
)
CORRECTION = re.compile(
    r"\b(?:actually|wait|reconsider\w*|re-?think\w*|correction|on\s+second\s+thought\w*|scratch\s+that|rather|instead|no,|hmm+|sorry|oops|my\s+mistake|let\s+me\s+(?:check|correct|revise|re-?examine|re-?read))",
    re.IGNORECASE,
)
AT_ONCE = re.compile(
    r"[*_)\].…,;\s–—-]*\b(?:no|wait|sorry|actually|I\s+mean[t]?)\b[,:.!]*\s+(?:(?:it\s+is|it['’]s|rather|I\s+meant?)\s+)?",
    re.IGNORECASE,
)
ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1}
ORDINAL = re.compile(
    rf"(?:the\s+)?({'|'.join(ORDINALS)})\s+(?:option|choice|answer|one|statement|alternative)\b", re.IGNORECASE
)
# Where a text runs on into a task that it invents.
NEXT_TASK = re.compile(
    r"(?:^|\n)[ \t>*_#]*(?:Question(?:\s*\d+)?|Q\d*|User|Human|Problem(?:\s*\d+)?|Task|Exercise|Next\s+question"
    r"|Frage(?:\s*\d+)?|问题|題目|题目)[ \t*_]*[:：]"
    r"|<\|(?:im_start|start_header_id|user|endoftext|eot_id|im_end)\|>|(?:^|\n)This is a question about |\[INST\]"
    r"|\n#{1,4}\s*(?:Question|Problem|Exercise)\b",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"^\W*$|^\W*(?:not\s+)?(?:unclear|unknown|debatable|uncertain|ambiguous|subjective|difficult|hard|impossible|not\s+(?:given|clear|stated|known|mentioned|possible|provided|in\s+the)|cannot|can['’]t|in\s+the|found|given|provided|there|here|a\s+(?:difficult|hard|matter|question|summary|good|long|short|simple|complex)|"
    r"too|so|very|simple|clear|below|above|as\s+follows|correct|wrong|right|based|(?:the\s+)?one\s+that|what|to\s+be|helpful|important)\b",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)[.!?。！？]+[\"'”’)\]*_]*(?=\s+[^a-z\s]|\s*$)|\n|[。！？]")

# Right before the noun: an answer that is not the right one, or somebody's, or what only gives reasons for it.
NOT_THE_RIGHT = re.compile(
    r"(?:\b(?:reason\w*|explanation|justification|rationale|analysis|evidence|steps?)\s+(?:behind|for|of|to)\s+"
    r"(?:(?:the|my|our|this)\s+)?|\b(?:wrong|incorrect|worst|second|next|least|other|another|falsche|mauvaise|неправильный|неверный)\s+"
    r"(?:(?:best|good|likely|plausible|tempting|most)\s+)*|\w['’]s\s+|\w+s['’]\s+|错误的?|不)$",
    re.IGNORECASE,
)
# Between the noun and the verb, or right before the verb: what turns the statement round or weakens it.
TURNED = re.compile(
    r"\b(?:no|nicht|pas|non|não|не|nie|incorrecta?|erronée?|falsa|falsch|fausse|wrong)\s*$|(?:不|可能)$", re.IGNORECASE
)
DOUBTED_BEFORE = re.compile(
    r"\b(?:do\s+not|don['’]t|did\s+not|didn['’]t|cannot|can['’]t|never|no\s+(?:one|evidence|way)|doubt\w*"
    r"|(?:false|wrong|not\s+the\s+case|mistake|temptation|hard|unlikely)\s+(?:to\s+\w+\s+)?(?:that|how|is)?)\s+"
    r"(?:\w+\s+){0,2}(?:that\s+|how\s+)?(?:the\s+|my\s+)?$|^\W*(?:si|wenn|falls|если|se)\b|如果|もし"
    r"|\b(?:assume|let['’]s\s+(?:assume|say)|e\.g|for\s+example|example|used\s+to\s+think|I\s+thought|going\s+to\s+say"
    r"|whoever|check\s+whether|to\s+claim\s+that|format\s+(?:is|was)|looks?\s+like|in\s+which\s+case)\b"
    r"|^\W*(?:although|though|while)\b[^,]*$|\b(?!I\b)\w+\s+(?:said|says|claimed|claims|thought)\s+(?:that\s+)?(?:the\s+)?$",
    re.IGNORECASE,
)
# What makes a number that stands there the beginning of another one.
NUMBER_GOES_ON = re.compile(
    r"\s*(?:or|and|to|-|–|—|/|oder|bis)\s*[-+$€£]?\s*\d|\s*,\s*\d|\s*[\^×*+÷√π½¼¾²³!:‰]\s*[\w({$€£]|\s*[\^√π½¼¾²³!‰]"
    r"|\s*\\(?:times|cdot|div|pi|sqrt)|\s+\d|\s*(?:(?:more|less|fewer|lower|higher)\s+than|times|plus|minus|divided|squared"
    r"|cubed|hundred|thousand|million|billion|trillion|bps|basis|percentage\s+points?|of\s+\d+|B\.?C)\b",
    re.IGNORECASE,
)
HEDGED_CJK = re.compile(r"[\s」』)）]*(?:ではありません|ではない|じゃない|かもしれ|还是|還是|或|か\s*[A-Z])")
WRONG_BEHIND = re.compile(
    r"[*_)\].]*\s*(?:[,;–—-]+\s*)(?:which\s+is\s+)?(?:wrong|incorrect|false|not\s+correct)\b", re.IGNORECASE
)
# What may join two statements of that form.
JOINS = re.compile(r"(?:[\W_]|\band\b|\bund\b|\bet\b|\by\b)*", re.IGNORECASE)
# After "(C) is correct" nothing may follow in the sentence but its reasons or whereof it is the answer.
ENDS_THERE = re.compile(
    r"(?:\s+(?:fit|match|one|option|answer|choice|réponse|Antwort|Option|respuesta|resposta|risposta|ответ)\b|的?(?:答案|选项)?|です)?"
    r"(?:\s+(?:to|for|among|of|out\s+of|based\s+on|according\s+to|given)\s+(?:the|this|all|these|your|our)\b[^.!?\n]*)?"
    r"[*_\"')\s]*(?:$|[.!\n。！]|[,;:–—-]?\s*(?:because|since|as\b|for\b|here\b|given|so\b|therefore|based|when\s+we|if\s+we|if\s+you))",
    re.IGNORECASE,
)
# The text of a short option goes on as something else: "London Bridge", "no longer".
GOES_ON = re.compile(
    r"\s+(?!(?:because|since|as|who|which|that|is|was|when|for|in|and\s+(?:the|it|he|she|they|not|so)|not|rather|but|here|too"
    r"|would|fits|best|given|based|due|from|at|on|by|with)\b)[^\W\d_]|/\w|\s*(?:or|and|/)\s*[A-Z]\b(?!\w)",
)
# More is said of what an option's text says: "increases, then decreases".
SAYS_MORE = re.compile(
    r"\s*,?\s*(?:(?:or|and)\s+(?:it\s+)?(?:stays|remains|then|decreases|increases|falls|rises)|then|until)\b"
    r"|\s*[\^²³]|\s*[-–]\s*\d|\s+(?:less|more|fewer)\s+than\b",
    re.IGNORECASE,
)
# What may stand before an option's text that does not begin so: "The answer is a clarinet", "... is in the year 1818".
_ARTICLE = r"(?:an?|the|der|die|das|den|dem|ein(?:e[mnrs]?)?|une?|les?|las?|los?|una?|gli|il|uma?|os?)\s+"
ARTICLE = re.compile(
    rf"(?:in|at|on|of)\s+(?:the\s+year\s+|{_ARTICLE})?|{_ARTICLE}(?:\w+\s+(?:called|named)\s+(?:{_ARTICLE})?)?",
    re.IGNORECASE,
)


def starts_of(text: str) -> tuple[str, ...]:
    """Where an option's text may begin in a text: where that begins, and behind an article there."""
    article = ARTICLE.match(text)
    return (text, text[article.end() :]) if article else (text,)


# Words that may stand right before an option's bare letter.
MAY_PRECEDE = frozenset(
    "so thus therefore hence then that think believe say also only is and option choice answer letter".split()
)
