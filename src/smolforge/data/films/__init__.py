"""Inside of `data/film.py`: what a video file's packets tell, its frames by four libraries, what is kept on the disk."""
