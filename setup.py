"All settings are in settings.ini: edit there, not here."
from configparser import ConfigParser
from pathlib import Path
import shlex, setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
readme = here/'README.md'

setuptools.setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    author=cfg['author'], author_email=cfg['author_email'], keywords=cfg['keywords'],
    url=cfg['git_url'], license='Apache-2.0',
    classifiers=[f'Programming Language :: Python :: {version}' for version in cfg['pythons'].split()],
    python_requires='>=' + cfg['min_python'],
    # vipant/paper holds the paper's own numbers, csv files and no module
    packages=setuptools.find_packages(include=[cfg['lib_path'], cfg['lib_path'] + '.*']) + [cfg['lib_path'] + '.paper'],
    include_package_data=True, zip_safe=False,
    install_requires=shlex.split(cfg.get('requirements', '')),
    extras_require={k: shlex.split(cfg.get(f'{k}_requirements', '')) for k in ('dev', 'export', 'mteb')},
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    entry_points={'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
                  'console_scripts': [f"vipant={cfg['lib_path']}.engine.cli:main"]},
    package_data={cfg['lib_path'] + '.paper': ['*.csv'], cfg['lib_path']: ['weights/*/*']},
)
