import warnings

# Progress is drawn as text, so that it shows in logs too: the libraries that look for a widget need not say that there is none
warnings.filterwarnings('ignore', message='IProgress not found')

__version__ = "0.1.0"
