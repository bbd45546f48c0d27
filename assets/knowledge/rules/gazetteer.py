"""Names that a small NER model gets wrong in chats. General lists of the world's common names, none of a data set.

Words that are ordinary English as well are left out of the lists that match in lower case.
"""

from __future__ import annotations

_FIRST_NAMES = """
aaron abdul abdullah abigail adam adele adrian agnes ahmed aisha akira alan alana albert alberto alejandro
alessandro alex alexander alexandra alexis alfred ali alice alicia alina alison allison amanda amara amber
amelia amina amir amit amy ana anastasia anders andre andrea andreas andrew andy angela angelica anika anita
anja anjali ann anna anne annette annika anthony antoine anton antonio anya aria arjun arthur arun asha ashley
astrid audrey aurora ava axel ayesha barbara beatrice beatriz ben benedikt benjamin bernard bernd beth bethany
bianca birgit bjorn bob boris brandon brenda brian bridget brigitte bruce bruno bryan caitlin camila camille
carl carla carlo carlos carmen carol carolina caroline carolyn catherine cecilia charles charlie charlotte chen
chiara chloe chris christian christina christine christopher claire clara claudia claus colin connor cristina
cynthia daisuke dan dana daniel daniela danielle danny darius dave david deborah deepak denise dennis derek
diana diane diego dieter dimitri dominic dominik donald donna doris dorothy douglas duncan dylan ed eddie edgar
edith eduardo edward edwin elaine eleanor elena eli elias elif elijah elisa elise elizabeth ella ellen ellie
elsa emilia emilio emily emma eric erica erik erika erin ernest esther ethan eugene eva evan evelyn fabian farah
fatima felicia felix fernando fiona florian frances francesca francesco francisco francois franz freddie
frederik frieda gabriel gabriela gareth gary gavin georg george gerald gerard giovanni giulia gloria gordon greg
gregory greta guido gustav hamza hanna hannah hans harold harriet harry harvey hassan heather hector heidi heike
helen helena helga henri henrik henry herbert hiroshi holger howard hugo ian ibrahim ida igor imran ingrid irene
irina isaac isabel isabella isabelle ismail ivan jack jackie jacob jacqueline jaime jake jakob jamal james jamie
jan jana jane janet janice jasmin jasmine jason javier jean jeff jeffrey jenna jennifer jenny jens jeremy jerome
jerry jesse jessica jill jim jimmy joan joanna joao jochen joe joel johan johanna johannes john johnny jon jonas
jonathan jordan jorge jose josef joseph josh joshua juan juanita judith judy julia julian juliana julie juliet
julius jun jurgen justin kai karen karim karin karl karla kate katharina katherine kathleen kathryn kathy katie
katja katrin kayla keiko keith kelly ken kenji kenneth kerstin kevin khalid kim kirsten klaus kofi krishna
kristen kristin kumar kurt kwame kyle lars laura lauren laurent layla lea leah leila lena leo leon leonard
leonardo leonie leslie li liam lily lina linda lisa liz lois lorenzo louis louise luca lucas lucia lucy luis
luisa luka lukas luke lydia madeleine madison maggie malcolm manuel manuela mara marc marcel marco marcos marcus
margaret margarita maria marie marina mario marion marius marta martha martin martina mary mateo mathias
mathilde matt matteo matthew matthias maurice max maya megan mehmet mei melanie melissa mia michael michaela
michel michelle miguel mikael mike mikhail mila milan milena ming miriam mohamed mohammad mohammed moira monica
monika morgan moritz muhammad murat mustafa nadia nadine nancy naomi natalia natalie natasha nathan neha neil
nele nelson nia niamh nicholas nick nico nicola nicolas nicole niklas nils nina noah noel nora norbert norman
olaf oleg olga oliver olivia omar oscar oskar otto owen pablo pamela paola patricia patrick paul paula pauline
pavel pedro peggy penny peter petra phil philip philipp philippe phoebe pierre pilar piotr priya qasim rachel
rafael rahul raj rajesh ralf ralph ramon rana raquel rashid raul ravi raymond rebecca rebekah renata rene
ricardo richard rick riley rita rob robert roberta roberto robin rodrigo roger roland roman ronald rosa rosie
ross roxanne roy ruben rudolf rupert ruth ryan sabine sabrina said sally salma sam samantha samir samuel sandeep
sandra sanjay sara sarah sasha sean sebastian selma serena sergei sergio shane shannon sharon shaun sheila
shirley silke silvia simon simone sofia sonia sonja sophia sophie stacy stan stefan stefanie stella stephan
stephanie stephen steve steven stuart sunil susan susanne suzanne sven sylvia takeshi tamara tanja tanya tara
tariq tatiana ted teresa terry tessa theo theodore theresa thiago thomas tim timo timothy tina tobias todd tom
tomas tommy toni tony tracy tristan ulrich ulrike ursula uwe valentina valerie vanessa vera veronica victor
victoria vijay viktor vincent violet virginia vivian vladimir walter wanda wayne wei wendy werner wilhelm
william wolfgang xavier xin yan yasmin yasmine yoko yolanda york youssef yuki yusuf yvonne zac zach zachary zara
zoe zoey
"""
_MORE_FIRST_NAMES = """
abdul abdullah abdulrahman abena adaeze adebayo adel adenike adwoa afia agnieszka ahmet ai aiko ailsa ainhoa aino
aisha aisling akash akiko akin akosua akua alejandra aleksandr aleksandra alessia alhassan alioune alma amaka amal
amara amelie amina aminata amir amit amrita ananya anastasia andile andrej aneta anil anjali ankit anneliese antonia
anushka anwar aoife arash arif arjun arnav arshad arvid asuka ayaan ayanda aylin ayse ayşe azadeh aïcha babak bartek
bashir beata bence benita bilal bogdan boitumelo bongani brigid bronagh caoimhe cecilie cedric chiamaka chidi chika
chinedu chinonso chioma chukwuma ciara cillian clodagh dagmar dagny danica darius darya davit deepika delphine
devika dilara dimitris dipika divya dragan dusan ebere ebru edwige efua eirini ekaterina elhadj elina elnaz emeka
emine emre enrique erdem esi eszter eunji fadi faisal fanta farhan farid farida farzana fatih fatma fatou fatoumata
femi ferenc fikret folake franck funmi gaurav georgi giorgi giorgos gizem gulnara gunnar habib hadiya hakan halima
hamid hana haruki haruto hasan hatice hayat hicham hitomi hoda huda husein hussein hye-jin ibrahima ichiro idris
ifeoma ikram ilhan ilona imani inaya ines inga ioana ioannis iryna isha ishaan ismael itziar iveta iñaki jabu jad
jagdish jalal jamila janek jaroslav jasmina javad jelena jihye jin-young joanne joaquin jorunn jovana julien juma
kaito kamal kamala kamila kaori karima karolina kaveh kazuki kenta khadija khalil kiran kofi kwesi laila lakshman
lamine laszlo latifa leandro leila leyla liang lindiwe linh livia liyana ljiljana ludmila lupita lwandle maciej mads
magdalena mahesh mahmoud maja makoto malik mamadou manish manoj marek margit mariana maribel marija marisol maryam
masha matej matias mbali medina meera mehwish mei-ling mercedes merve michał mihaela mihai milos mina mirela
miroslav mizuki moez mohan moussa mpho mukesh mustafa mustapha nabil nadeem naledi naoko narges naveen navya nazanin
neema nermin ngoc nikhil nikita nikolai nikos nina nisha nkechi nobuko noor noura nuno nur obinna olena olumide
olusegun omari onyeka osagie oumar ozlem paolo parisa patricija payal petr petros phuong piet pooja prakash pranav
pratik preeti przemek qing quang rachid radek radka rafal raisa rajiv ramesh rania rashida ravindra reem reza
ricarda rohan rohit ruchi rukhsana ruslan rutendo saanvi sabrin sachiko sadia saeed safiya saif sakshi sakura salim
salman samira sanjana santosh saoirse satoshi sedat seema seung-ho shabnam shahid shanthi shilpa shinji shirin shiv
shreya shu sibusiso siddharth silje simran sindre sinead siobhan siobhán sipho slavica sneha snezana soledad solveig
soumya sunita suresh svetlana swati søren taiwo takumi tamika tatjana tendai thandi thandiwe themba thuy tomasz
tomoko tshepo tuan tunde uchenna umar usman valeria vanja veer veli vesna vikram vinod viraj vivek vuk wafa wale
wanjiku wanjiru weronika wiktor xiaoming xiaoyan yaa yael yara yasemin yasuko yaw yeon yinka yuko yuri yusra zahra
zainab zanele zbigniew zdenek zeinab zineb zofia zoltan zsofia zuzana
"""
# English words, too: a name only where the sentence says so ("my name is", "Hi ...,", "Ms ...").
_AMBIGUOUS_FIRST_NAMES = """
amber april art ashley august bill brook carol chance chase chuck crystal dale dawn dean don drew earl faith
flora frank gene glen grace grant hazel heath holly hope iris ivy jade jay jean jewel josh joy june lane lily
mark max may melody miles nick norm olive page pat patience pearl penny pierce ray red rich rob robin rod rose
ruby rusty sandy scarlet sky sonny star sterling sue summer terry tiffany van victor violet wade will willow
"""
_COUNTRIES = """
afghanistan|albania|algeria|andorra|angola|argentina|armenia|australia|austria|azerbaijan|bahamas|bahrain|
bangladesh|barbados|belarus|belgium|belize|benin|bhutan|bolivia|bosnia|botswana|brazil|brunei|bulgaria|
burkina faso|cambodia|cameroon|canada|cape verde|chile|china|colombia|congo|costa rica|croatia|cuba|cyprus|
czech republic|czechia|denmark|dominican republic|ecuador|egypt|el salvador|england|estonia|ethiopia|fiji|
finland|france|gabon|germany|ghana|greece|greenland|guatemala|guinea|guyana|haiti|honduras|hungary|iceland|
india|indonesia|iran|iraq|ireland|israel|italy|jamaica|japan|kazakhstan|kenya|kosovo|kuwait|kyrgyzstan|laos|
latvia|lebanon|lesotho|liberia|libya|liechtenstein|lithuania|luxembourg|madagascar|malawi|malaysia|maldives|
mali|malta|mauritania|mauritius|mexico|moldova|monaco|mongolia|montenegro|morocco|mozambique|myanmar|namibia|
nepal|netherlands|new zealand|nicaragua|nigeria|north korea|north macedonia|northern ireland|norway|oman|
pakistan|palestine|panama|paraguay|peru|philippines|poland|portugal|puerto rico|qatar|romania|russia|rwanda|
saudi arabia|scotland|senegal|serbia|seychelles|singapore|slovakia|slovenia|somalia|south africa|south korea|
spain|sri lanka|sudan|suriname|sweden|switzerland|syria|taiwan|tajikistan|tanzania|thailand|togo|tunisia|
turkmenistan|uganda|ukraine|united arab emirates|united kingdom|united states|uruguay|uzbekistan|venezuela|
vietnam|wales|yemen|zambia|zimbabwe
"""
_PLACES = """
amsterdam|athens|auckland|austin|baghdad|bali|bangalore|bangkok|barcelona|basel|beijing|beirut|belfast|belgrade|
bengaluru|bergen|berlin|bern|bilbao|birmingham|bogota|bologna|bonn|bordeaux|boston|brasilia|bratislava|bremen|
brisbane|bristol|brooklyn|brussels|bucharest|budapest|buenos aires|cairo|calgary|california|cape town|cardiff|
casablanca|catalonia|chennai|chicago|cincinnati|cleveland|cologne|colorado|copenhagen|cork|dakar|dallas|
damascus|delhi|denver|detroit|dhaka|doha|dortmund|dresden|dubai|dublin|dubrovnik|duisburg|dusseldorf|düsseldorf|
edinburgh|essen|florence|florida|frankfurt|gdansk|geneva|genoa|ghent|glasgow|gothenburg|granada|graz|guangzhou|
hamburg|hannover|hanover|hanoi|havana|hawaii|heidelberg|helsinki|ho chi minh city|hong kong|honolulu|houston|
hyderabad|ibiza|illinois|innsbruck|istanbul|izmir|jakarta|jeddah|jerusalem|johannesburg|kansas city|karachi|
kathmandu|kiel|kolkata|krakow|kraków|kuala lumpur|kyiv|kyoto|lagos|lahore|las vegas|lausanne|leeds|leipzig|
lille|lima|lisbon|liverpool|ljubljana|london|los angeles|lucerne|lyon|madeira|madrid|malaga|mallorca|malmo|
malmö|manchester|manhattan|manila|marrakech|marrakesh|marseille|massachusetts|melbourne|memphis|mexico city|
miami|michigan|milan|milano|minneapolis|minnesota|minsk|monaco|montevideo|montpellier|montreal|moscow|mumbai|
munich|münchen|nairobi|nantes|naples|nashville|new delhi|new jersey|new orleans|new york|new york city|
newcastle|north carolina|nottingham|nuremberg|ohio|oregon|orlando|osaka|oslo|ottawa|oxford|palermo|palma|paris|
pennsylvania|perth|philadelphia|phnom penh|phuket|pittsburgh|porto|potsdam|prague|pretoria|quebec|reykjavik|
riga|rio de janeiro|riyadh|rome|roma|rotterdam|saigon|salt lake city|salzburg|san antonio|san diego|
san francisco|san jose|santiago|santorini|sao paulo|são paulo|sarajevo|sardinia|seattle|seoul|seville|shanghai|
sheffield|shenzhen|sicily|sofia|southampton|st. petersburg|stockholm|strasbourg|stuttgart|sydney|taipei|tallinn|
tampa|tehran|tel aviv|tenerife|texas|the hague|tokyo|toronto|toulouse|trieste|tunis|turin|tuscany|utrecht|
valencia|vancouver|venice|verona|vienna|vilnius|warsaw|washington|washington dc|wellington|wisconsin|wuhan|york|
zagreb|zurich|zürich
"""
_CAPITALIZED_PLACES = """
africa|asia|bath|cambridge|chad|cuba|europe|georgia|jordan|mali|mobile|nice|north america|orange|phoenix|
reading|south america|split|togo|turkey|usa|uk|uae|us|eu|nyc|california|bavaria|brittany|cork|lima|essen|
provence|scandinavia|siberia|silicon valley|the alps|tirol|tyrol
"""
_ORGANIZATIONS = """
adidas|adobe|air canada|air france|airbnb|aldi|alibaba|alitalia|allianz|amazon|amazon prime|amd|
american airlines|american express|asus|atlassian|audi|aws|axa|barclays|basf|bayer|bbc|best buy|bmw|boeing|
booking.com|bosch|british airways|carrefour|chase bank|cisco|citibank|coca-cola|commerzbank|costco|dell|
delta airlines|deutsche bahn|deutsche bank|deutsche telekom|dhl|disney|doordash|dropbox|easyjet|ebay|
emirates airlines|ericsson|etsy|eurostar|eurowings|expedia|facebook|fedex|ford|foxconn|github|gitlab|
goldman sachs|google|h&m|harvard|hewlett packard|hilton|honda|hsbc|huawei|hyatt|hyundai|ibm|ikea|instagram|
intel|johnson & johnson|jpmorgan|klm|klarna|kpmg|lenovo|lidl|linkedin|lufthansa|marriott|mastercard|mcdonald's|
mcdonalds|mercedes|mercedes-benz|meta|microsoft|mit|motorola|nasa|nestle|nestlé|netflix|nhs|nike|nintendo|nokia|
nvidia|opel|openai|oracle|paypal|pepsi|pfizer|philips|porsche|pwc|qantas|qatar airways|renault|revolut|
royal mail|ryanair|salesforce|samsung|sap|shell|shopify|siemens|sky news|slack|snowflake|sony|spotify|starbucks|
stripe|swisscom|t-mobile|target|tesco|tesla|tiktok|toyota|tui|turkish airlines|twitter|uber|united airlines|
unilever|ups|usps|verizon|vodafone|volkswagen|volvo|walmart|wells fargo|western union|whatsapp|wizz air|xiaomi|
yahoo|youtube|zalando|zoom
"""
_CAPITALIZED_ORGANIZATIONS = (
    "apple|delta|emirates|ford|meta|oracle|shell|slack|target|zoom|sky|chase|visa|gap|ups|mit|stripe"
)
_PRODUCT_LINES = """
airpods|apple watch|chromebook|echo dot|fire stick|fitbit|galaxy|gopro|homepod|ipad|imac|iphone|kindle|macbook|
nintendo switch|oculus|pixel|playstation|roomba|steam deck|surface pro|surface laptop|thermomix|thinkpad|xbox
"""

# Makers of things: what is named behind one of them is a product.
_MAKERS = """
acer|aeg|alfa romeo|asus|audi|bmw|bosch|bose|brother|canon|citroën|citroen|dacia|de'longhi|delonghi|dell|dji|dyson|
electrolux|epson|fairphone|fiat|ford|garmin|gopro|honda|huawei|hyundai|jabra|jbl|jeep|kenwood|kia|kitchenaid|lenovo|lg|
logitech|makita|mazda|miele|mitsubishi|motorola|nikon|nissan|nokia|oneplus|opel|panasonic|peugeot|philips|polar|
porsche|razer|renault|roborock|rowenta|samsung|seat|sennheiser|sharp|siemens|sonos|sony|subaru|suzuki|tefal|tesla|toyota|
volkswagen|volvo|vorwerk|whirlpool|xiaomi|yamaha|zte|škoda|skoda
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in text.replace("\n", " ").split("|") if phrase.strip())


AMBIGUOUS_FIRST_NAMES = _words(_AMBIGUOUS_FIRST_NAMES)
_KNOWN_FIRST_NAMES = _words(_FIRST_NAMES) | _words(_MORE_FIRST_NAMES)
ALL_FIRST_NAMES = _KNOWN_FIRST_NAMES | AMBIGUOUS_FIRST_NAMES
FIRST_NAMES = _KNOWN_FIRST_NAMES - AMBIGUOUS_FIRST_NAMES
PLACES = _phrases(_COUNTRIES) | _phrases(_PLACES)
CAPITALIZED_PLACES = _phrases(_CAPITALIZED_PLACES)
ORGANIZATIONS = _phrases(_ORGANIZATIONS) - _phrases(_CAPITALIZED_ORGANIZATIONS)
CAPITALIZED_ORGANIZATIONS = _phrases(_CAPITALIZED_ORGANIZATIONS)
PRODUCT_LINES = _phrases(_PRODUCT_LINES)
MAKERS = _phrases(_MAKERS)

NO_NAMES = _words(
    """
    a about absolutely account actually address afternoon again agent agreed ah all alright also always am an
    and any anyone anything api apologies app appreciate april are as asap ask at atm attachment august awesome
    aye b2b back basic because bic black blue bluetooth bot breakfast brother bug business but button by bye
    call can cancel card cc ceo certainly chat check checked cheers click cm cool correct could cpu crm css csv
    customer dad daily dear december decided definitely delivery deluxe desk did dinner do dob doctor does don't
    done double dr driver dvd e-mail easy economy either email enjoy erp eta evening every everyone everything
    exactly excellent express fab faq father february fine firmware first flight for friday from fyi gb gift
    give go gold good goodbye got gpu great green guys had haha happy has have hdmi he hello help her here hey
    hi his hm hmm hold hope hotel how however hr html http husband i i'll i'm i've iban id if in inbox indeed
    info installed instead internet invoice is it item its january json july june just kg kind kindly king km
    know laptop large last later lcd led let let's login lol looking lovely lunch ma'am madam mail make many
    march may maybe mb me medium meeting message mm mom monday monthly morning mother mr mrs ms mum my nah name
    need never new next nice night no none nope not note noted november now null number nurse october of ofc off oh
    ok okay on once one online only oops open or order other our out over package page parcel pardon password
    payment pcs pdf perfect phone pin please pls plus pnr possibly premium price probably problem product prof
    professor project promo ps queen question quick ram ready really reason receipt received red refund
    regarding regards remember reservation right router sat saturday see send sent september server service
    settings she shipping should silver sim since sincerely single sir sister size small sms so some someone
    something sorry sounds sql ssd ssl ssn standard still stop store sunday super support sure swift taxi tb
    team tell thank thanks that that's the their them then there these they thing think this those thursday thx
    ticket till to today tomorrow tonight too total tracking tried true try tuesday tv ty ugh ui undefined understood
    unfortunately until update url us usb user vat very vip visa voucher vpn wait want warm was we we'll we've
    wednesday week weekly welcome well were what what's when where which white who why wi-fi wife wifi will wish
    with wonderful works would wow xl xml xs yeah yep yes yesterday you you're your yours yup zip
    """
)
