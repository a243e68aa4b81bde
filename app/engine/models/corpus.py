"""The text that the tiny model's tokenizer is trained on. A changed letter changes the tokenizer."""

CORPUS = """\
A request arrives with a deadline and a priority. The gateway reads the body, checks the key, counts the
tokens of the prompt and asks the scheduler for a lease. The scheduler keeps one queue for the whole
application. It knows how many places every engine has, how long the last hundred answers took, and which
tenant has had more than a fair share. When a place is free the most urgent ticket leaves the queue. When
none will be free in time the request is refused at once, with an honest hint when to come back.

The engine holds the weights of a large language model and a cache of keys and values, cut into blocks of
sixteen tokens. In each step it takes some requests that are already running, adds a piece of a new
prompt, and computes one more token for everybody. A small batch wastes the memory bandwidth, a big batch
makes the next token late. Tensor parallelism splits each matrix over the graphics cards of one node,
pipeline parallelism gives every stage its own layers, and a bundle names the card on which a rank lives.

What can go wrong? A client may close the connection in the middle of a stream. A worker process may die
without a word. The network can lose a packet, a disk might fill up, and somebody will surely ask for
three million tokens with the temperature set to zero. Every queue, loop and retry therefore has a bound,
every bound has a reason, and every failure has a name that the user can look up in the manual.

Numbers help: 0 1 2 3 4 5 6 7 8 9 10 12 16 24 32 48 64 100 128 256 512 1024 2048 4096 percent, seconds,
milliseconds, bytes, kilobytes, megabytes, gigabytes. Monday, Tuesday, Wednesday, Thursday, Friday,
Saturday and Sunday; January, February, March, April, May, June, July, August, September, October,
November, December. Red, orange, yellow, green, blue, violet, black, white. Paris, Berlin, London, Madrid,
Vienna, Warsaw, Tokyo, Nairobi, Lima, Ottawa. Please summarize this article, translate these sentences
into French, write a short poem about autumn, explain how photosynthesis works, and list five ideas for
dinner with rice, beans, onions, garlic, tomatoes and lemon. The quick brown fox jumps over the lazy dog
while twelve wizards juggle expensive quartz boxes beneath a hazy moon. Water freezes at zero degrees and
boils at a hundred; an octopus has three hearts, a butterfly four wings, a piano eighty-eight keys.

def answer(question: str) -> str: return f"{question}?" if question else "nothing" # 42
"""
