"""From a run's folder to a repository on the Hugging Face Hub, with a model card that says what the run's files say, and no more.

push       the verb
subject    what a folder is: a run, a model or adapters, and from which base
contents   which of its files go
places     what of this machine must not be read in them
card       the page of the repository; training, results, using are its sections, markdown its parts
upload     the Hub
"""
