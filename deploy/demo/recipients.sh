#!/usr/bin/env bash
# Writes the demo's recipients as CSV: 1 000 good rows and 8 bad ones among them.
#   deploy/demo/recipients.sh RUN > recipients.csv     RUN: three digits, so that each run has people of its own
# Nobody is called: the simulator answers. Its last four digits decide what becomes of a message (`simulate --help`);
# those that shall fail have numbers beginning with +8190, all others in Japan with +8180.
set -euo pipefail

readonly RUN=$1
readonly JAPANESE=(佐藤 鈴木 髙橋 田中 '渡邊 さくら' 伊藤 山本 中村 '小林 一郎' 𠮷田 'ヤマダ タロウ' '斎藤 結衣')
# prefix of a mobile number, and names as they are written there
readonly ELSEWHERE=(
  '+82102|김민준|이서연|박지후'
  '+7916|Иван Петров|Анна Смирнова|Дмитрий Ёлкин'
  '+30697|Γιώργος Παπαδόπουλος|Μαρία Νικολάου|Ελένη Ιωάννου'
  '+6681|สมชาย ใจดี|กนกวรรณ ศรีสุข|ณัฐพล'
  '+96650|محمد العتيبي|فاطمة الزهراء|عبد الله'
  '+3361|François Lefèvre|Zoë Müller|Søren Ångström'
)
readonly SHOPS=(渋谷店 新宿店 梅田店 札幌店 '銀座 本店')
# row of the thousand -> last four digits: failures told later, at the call, and answers that get lost
declare -A ENDING=(
  [40]=0026 [140]=0026 [240]=0026 [440]=0026 [640]=0026 [840]=0026
  [90]=0049 [290]=0049 [490]=0049
  [120]=0050 [320]=0050
  [150]=0472 [350]=0472 [550]=0472
  [180]=0403 [380]=0403
  [60]=9005 [260]=9005 [460]=9005 [660]=9005
  [70]=9001 [270]=9001 [470]=9001
  [80]=9004 [280]=9004 [480]=9004
)

row() { printf '%s,%s,%s,%s,%s\n' "$@"; }

# bad_row AFTER: what stands after that good row
bad_row() {
  case $1 in
    100) row 'ask at the counter' bad-1 Asia/Tokyo 山田 渋谷店 ;;
    200) row +8190123 bad-2 Asia/Tokyo 木村 渋谷店 ;;
    300) row "+81801${RUN}2001" bad-3 Asia/Tokyo '' 渋谷店 ;;
    400) row "+81801${RUN}1001" bad-4 Asia/Tokyo 林 渋谷店 ;; # the first row's number again
    500) row "+81801${RUN}2002" bad-5 Asia/Tokio 清水 渋谷店 ;;
    600) row "+81801${RUN}2003" bad-6 Asia/Tokyo "$(printf '長%.0s' {1..1100})" 渋谷店 ;;
    700) row 080-1234-5678 bad-7 Asia/Tokyo 森 渋谷店 ;; # no country code
    800) row "+81801${RUN}2004" bad-8 Asia/Tokyo $'"池田\n花子"' 渋谷店 ;;
  esac
}

printf 'to,ref,time_zone,name,shop\n'
for ((i = 1; i <= 1000; i++)); do
  ref=$(printf 'crm-%04d' "$i") shop=${SHOPS[i % 5]}
  if [[ ${ENDING[$i]:-} ]]; then
    row "+8190$((1 + i / 100 % 9))$RUN${ENDING[$i]}" "$ref" Asia/Tokyo "${JAPANESE[i % 12]}" "$shop"
  elif ((i % 4 == 0)); then
    IFS='|' read -r -a place <<<"${ELSEWHERE[i / 4 % 6]}"
    row "${place[0]}$RUN$((1000 + i))" "$ref" '' "${place[1 + i / 24 % 3]}" "$shop"
  else
    row "+81801$RUN$((1000 + i))" "$ref" Asia/Tokyo "${JAPANESE[i % 12]}" "$shop"
  fi
  bad_row "$i"
done
